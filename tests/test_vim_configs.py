"""Tests that the Vim configs match their models, recipes and data, and support images that are not square."""

import argparse
import re
from functools import partial
from unittest.mock import patch

import numpy as np
import pytest
import torch
from mmengine.dataset import Compose
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS

from mmvmamba import Vim

from .test_configs import NAMES, build_shallow, learning_rates, synthetic_batch

SEG = 'vim/{}_upernet_4xb4-160k_ade20k-512x512.py'
CODE_SEG = 'vim/vim-{}_upernet_4xb8-60k_ade20k-512x512.py'
SEGMENTER = 'vim/vim-t_segmenter_4xb4-160k_ade20k-512x512.py'
DET = 'vim/cascade-mask-rcnn_{}_lsj-380k_coco.py'
CODE_DET = 'vim/cascade-mask-rcnn_vim-{}_sfp_amp-lsj-100e_coco.py'
CLS = {'t': 'vim/vim-t_8xb128_in1k.py', 's': 'vim/vim-s_8xb64_in1k.py', 'b': 'vim/vim-b_8xb128_in1k.py'}
FINE_TUNING = 'vim/vim-{}-plus_8xb128-30e_in1k.py'

# Parameters of the released models. The released UperNet has 192 more, for an unused final norm of the backbone.
PARAMETERS = {
    CLS['t']: 7_148_008,
    CLS['s']: 25_796_584,
    CLS['b']: 97_598_440,
    FINE_TUNING.format('t'): 7_250_344,
    FINE_TUNING.format('s'): 26_001_256,
    CODE_SEG.format('t'): 12_311_276 - 192,
    SEG.format('vim-t'): 12_311_276 - 192,
}


@pytest.mark.parametrize('name', [name for name in NAMES if name.startswith('vim/')])
def test_config_builds_at_full_size(name, load):
    cfg = load(name)
    # The meta device computes nothing, but mmdet and mmseg read drop path rates from a tensor.
    with torch.device('meta'), patch('torch.linspace', partial(torch.linspace, device='cpu')):
        model = MODELS.build(cfg.model)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert parameters == PARAMETERS.get(name, parameters)


def test_configs_use_the_feature_maps_of_the_paper(load):
    paper, code = load(SEG.format('vim-t')).model, load(CODE_SEG.format('t')).model
    for model in (paper, code):
        assert model.backbone.out_indices == (5, 11, 17, 23)
        assert model.neck.type == 'Feature2Pyramid'
    assert 'feature' not in paper.backbone
    assert load(CODE_SEG.format('s')).model.backbone.feature == 'residual_official'
    assert code.backbone.feature == 'mixer'
    assert paper.test_cfg.mode == 'whole'
    assert code.test_cfg == dict(mode='slide', crop_size=(512, 512), stride=(341, 341))
    assert load(SEGMENTER).model.decode_head.num_layers == 2

    cascade = load(DET.format('vim-t_sfp')).model
    assert cascade.neck.type == 'SimpleFeaturePyramid'
    assert [stage.assigner.pos_iou_thr for stage in cascade.train_cfg.rcnn] == [0.5, 0.6, 0.7]


@pytest.mark.parametrize('name', [SEG.format('vim-t'), CODE_SEG.format('t'), SEGMENTER, DET.format('vim-t_sfp')])
def test_config_initialises_from_the_official_file(name, load, tmp_path):
    classifier = Vim('tiny', pooling='middle')
    tensors = dict(classifier.state_dict(), **{'head.weight': torch.zeros(1000, 192), 'head.bias': torch.zeros(1000)})
    torch.save(dict(model=tensors, epoch=299, args=argparse.Namespace(model='vim_tiny')), tmp_path / 'official.pth')

    cfg = load(name).model.backbone
    assert cfg.init_cfg.checkpoint.startswith('https://huggingface.co/hustvl/Vim-tiny-midclstok/resolve/main/')
    cfg.init_cfg.checkpoint = str(tmp_path / 'official.pth')
    backbone = MODELS.build(cfg)
    backbone.init_weights()
    assert torch.equal(backbone.layers[23].mixer.A_b_log, classifier.layers[23].mixer.A_b_log)
    assert backbone.pos_embed.shape == (1, (cfg.img_size // 16) ** 2, 192)
    # The rest of the first row shows which entry was treated as the class token.
    first = classifier.pos_embed[0, 1 if cfg.get('pretrained_cls_slot') == 'official' else 0]
    others = classifier.pos_embed[0, [0, 1, 98, 99]]
    distances = (others - backbone.pos_embed[0, 0]).norm(dim=1)
    assert torch.equal(others[distances.argmin()], first)


def test_deit_initialises_from_the_mmpretrain_file(load, tmp_path):
    cfg = load(SEG.format('deit-t')).model.backbone
    classifier = MODELS.build(dict(type='mmpretrain.VisionTransformer', arch='deit-tiny'))
    state_dict = {f'backbone.{name}': torch.randn_like(tensor) for name, tensor in classifier.state_dict().items()}
    torch.save(dict(state_dict=state_dict), tmp_path / 'deit.pth')
    cfg.init_cfg.checkpoint = str(tmp_path / 'deit.pth')
    backbone = MODELS.build(cfg)
    backbone.init_weights()
    assert backbone.pos_embed.shape == (1, 1 + 32 * 32, 192)
    for name, tensor in backbone.state_dict().items():
        assert name == 'pos_embed' or torch.equal(tensor, state_dict[f'backbone.{name}']), name


@pytest.mark.parametrize(
    ('name', 'lr', 'weight_decay'),
    [
        (SEG.format('vim-t'), 6e-5, 0.01),
        (CODE_SEG.format('t'), 2e-4, 0.1),
        (CODE_SEG.format('s'), 1e-4, 0.05),
        (SEGMENTER, 6e-5, 0.01),
        (DET.format('vim-t_sfp'), 1e-4, 0.1),
        (CLS['t'], 1e-3, 0.1),
        (CLS['s'], 1e-3, 0.05),
        (FINE_TUNING.format('t'), 1e-5, 1e-8),
    ],
)
def test_optimizer_has_the_values_of_the_recipe(name, lr, weight_decay, load):
    cfg = load(name)
    optimizer = build_optim_wrapper(build_shallow(cfg), cfg.optim_wrapper).optimizer
    assert type(optimizer) is torch.optim.AdamW
    assert max(group['lr'] for group in optimizer.param_groups) == lr
    assert {group['weight_decay'] for group in optimizer.param_groups} == {0.0, weight_decay}
    decayed = {key for group in optimizer.param_groups if group['weight_decay'] for key in group['param_names']}
    assert 'backbone.layers.0.mixer.in_proj.weight' in decayed
    assert 'backbone.pos_embed' not in decayed
    in_released_code = name not in (SEG.format('vim-t'), SEGMENTER, DET.format('vim-t_sfp'))
    assert ('backbone.layers.0.mixer.A_log' in decayed) == in_released_code


def test_layer_decay_matches_the_released_code(load):
    """Checks the rates of the patch embedding, blocks and heads for 24 blocks."""
    for name, rate in ((CODE_SEG.format('t'), 0.92), (CODE_SEG.format('s'), 0.95), (CODE_DET.format('t'), 0.837)):
        cfg = load(name)
        cfg.optim_wrapper.type = 'OptimWrapper'  # AMP needs a GPU
        cfg.optim_wrapper.pop('loss_scale', None)
        model = torch.nn.Module()
        with torch.device('meta'):
            model.backbone = MODELS.build(cfg.model.backbone)
            model.head = torch.nn.Linear(1, 1)
        groups = build_optim_wrapper(model, cfg.optim_wrapper).optimizer.param_groups
        rates = {key: group['lr_scale'] for group in groups for key in group['param_names']}
        assert rates['head.weight'] == 1
        assert rates['backbone.layers.23.mixer.in_proj.weight'] == pytest.approx(rate)
        assert rates['backbone.layers.0.mixer.in_proj.weight'] == pytest.approx(rate**24)
        assert rates['backbone.patch_embed.proj.weight'] == pytest.approx(rate**25)


@pytest.mark.parametrize('name', [name for name in NAMES if name.startswith('vim/')])
def test_batch_size_matches_the_name(name, load):
    cfg = load(name)
    devices, images = re.search(r'_(\d)xb(\d+)', name).groups() if 'xb' in name else (8, 8)
    assert cfg.train_dataloader.batch_size == int(images)
    assert cfg.auto_scale_lr.base_batch_size == int(devices) * int(images)


def rates_at(cfg, iterations, epoch_length=None):
    """Returns the learning rate at these iterations, relative to that of the optimizer."""
    rates = learning_rates(cfg, max(iterations) + 1, epoch_length)
    return [rates[i] / cfg.optim_wrapper.optimizer.lr for i in iterations]


def test_schedules_match_the_recipes(load):
    cfg = load(DET.format('vim-t_sfp'))
    assert (cfg.train_cfg.max_iters, cfg.auto_scale_lr.base_batch_size) == (380_000, 64)
    assert rates_at(cfg, [0, 249, 190_125, 379_999]) == pytest.approx([1e-3, 1, 0.5, 0], abs=1e-4)

    cfg = load(CODE_DET.format('t'))
    assert (cfg.train_cfg.max_iters, cfg.auto_scale_lr.base_batch_size) == (184_375, 64)
    steps = [0, 249, 163_888, 163_889, 177_545, 177_546]
    assert rates_at(cfg, steps) == pytest.approx([1e-3, 1, 1, 0.1, 0.1, 0.01])

    cfg = load(CODE_SEG.format('t'))
    assert (cfg.train_cfg.max_iters, cfg.auto_scale_lr.base_batch_size) == (60_000, 32)
    assert rates_at(cfg, [0, 750, 1_500, 30_000, 59_999]) == pytest.approx([1e-6, 0.4938, 0.975, 0.5, 0], abs=1e-3)

    cfg = load(CLS['t'])
    assert (cfg.train_cfg.max_epochs, cfg.auto_scale_lr.base_batch_size) == (300, 1024)
    assert cfg.train_dataloader.sampler.type == 'RepeatAugSampler'
    assert cfg.custom_hooks[0].momentum == pytest.approx(1 - 0.99996)
    assert load(CLS['s']).auto_scale_lr.base_batch_size == 512

    cfg = load(FINE_TUNING.format('s'))
    assert (cfg.train_cfg.max_epochs, cfg.param_scheduler) == (30, [])
    assert cfg.load_from.endswith('Vim-small-midclstok/resolve/main/vim_s_midclstok_80p5acc.pth')


def test_large_scale_jitter(photo, load):
    cfg = load(DET.format('vim-t_sfp'))
    np.random.seed(0)
    scales = []
    for _ in range(5):
        packed = Compose(cfg.train_dataloader.dataset.pipeline)(dict(photo))
        if packed is None:  # the object was cropped away; the dataset then draws another image
            continue
        assert max(packed['inputs'].shape) <= 1024
        scales.append(packed['data_samples'].gt_instances.bboxes.tensor)
    assert scales
    packed = Compose(cfg.test_dataloader.dataset.pipeline)(dict(photo))
    assert packed['inputs'].shape == (3, 768, 1024)
    preprocessor = MODELS.build(cfg.model.data_preprocessor)
    batch = preprocessor({'inputs': [packed['inputs']], 'data_samples': [packed['data_samples']]}, training=True)
    assert batch['inputs'].shape == (1, 3, 1024, 1024)
    assert batch['inputs'][:, :, 768:].eq(0).all()
    assert batch['data_samples'][0].gt_instances.masks.masks.shape == (1, 1024, 1024)
    assert packed['data_samples'].scale_factor == pytest.approx((2.56, 2.56))
    assert packed['data_samples'].gt_instances.bboxes.tensor.tolist() == [[100, 100, 200, 200]]


@pytest.mark.parametrize(
    ('name', 'shape'),
    [
        (SEG.format('vim-t'), (512, 683)),
        (SEG.format('vim-t'), (333, 500)),
        (CODE_SEG.format('t'), (512, 683)),  # tested with sliding windows
        (DET.format('vim-t_sfp'), (512, 683)),
        (DET.format('vim-t_sfp'), (333, 500)),
        (CODE_DET.format('t'), (333, 500)),  # rotary position embedding
    ],
)
def test_images_of_any_shape_are_supported(name, shape, load):
    cfg = load(name)
    batch = synthetic_batch(cfg, shape)
    if cfg.default_scope == 'mmdet':
        batch = {key: values[:1] for key, values in batch.items()}
        cfg.model.test_cfg.rcnn.update(score_thr=0.0, max_per_img=10)
        cfg.model.test_cfg.rpn.max_per_img = 50
    else:
        cfg.model.decode_head.channels = cfg.model.auxiliary_head.channels = 16
    model = build_shallow(cfg)
    loss, log = model.parse_losses(model(**model.data_preprocessor(batch, training=True), mode='loss'))
    loss.backward()
    assert all(value.isfinite() for value in log.values()), log
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters() if parameter.grad is not None)

    model.eval()
    with torch.inference_mode():
        result = model.test_step({key: values[:1] for key, values in batch.items()})[0]
    if cfg.default_scope == 'mmseg':
        assert result.pred_sem_seg.data.shape == (1, *shape)
    else:
        assert result.pred_instances.masks.shape == (10, *shape)
        assert (result.pred_instances.bboxes.amax(0) <= torch.tensor([shape[1], shape[0]] * 2)).all()
