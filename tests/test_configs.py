"""Every shipped config parses, builds and trains; the published recipes are the published ones."""

from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.dataset import Compose
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, PARAM_SCHEDULERS
from mmengine.structures import InstanceData, PixelData

from mmvmamba.models.vim import ARCHS as VIM_ARCHS
from mmvmamba.models.vmamba import ARCHS

ROOT = Path(__file__).parents[1] / 'configs'
NAMES = sorted(str(path.relative_to(ROOT)) for path in ROOT.rglob('*.py') if '_base_' not in path.parts)
DET = 'vmamba/mask-rcnn_vmamba-{}_fpn_1x_coco.py'
SEG = 'vmamba/vmamba-{}_upernet_4xb4-160k_ade20k-512x512.py'
# Of configs/vmamba, those that stand for a family take a training step; tests/test_zoo.py builds all.
TRAINED = [name for name in NAMES if not name.startswith('vmamba/')] + [
    DET.format('t'),
    DET.format('vanilla-t'),
    SEG.format('t'),
    SEG.format('vanilla-t'),
    'vmamba/cascade-mask-rcnn_vmamba-t_fpn_4conv1fc-giou_amp-1x_coco.py',
    'vmamba/vmamba-t_8xb128_in1k.py',
    'vmamba/mask-rcnn_swin-t_fpn_1x_coco.py',
    'vmamba/mask-rcnn_convnext-t_fpn_1x_coco.py',
    'vmamba/convnext-t_upernet_4xb4-160k_ade20k-512x512.py',
]
SIZE = 64


def make_shallow(backbone):
    """One block a stage, or a map, and no drop path, since a dropped block has no gradient; others stay as they are."""
    backbone.init_cfg = None
    if 'drop_path_rate' in backbone:
        backbone.drop_path_rate = 0.0
    kind, arch = backbone.type.split('.')[-1], backbone.get('arch')
    if kind == 'VMamba':
        backbone.arch = {**(ARCHS[arch] if isinstance(arch, str) else arch), 'depths': (1, 1, 1, 1)}
    elif kind == 'Vim':
        maps = len(backbone.get('out_indices', (-1,)))
        backbone.arch = {**(VIM_ARCHS[arch] if isinstance(arch, str) else arch), 'depth': maps}
        backbone.out_indices = tuple(range(maps))
    elif kind == 'VisionTransformer':
        maps = len(backbone.get('out_indices', (-1,)))
        dims = {'deit-tiny': 192, 'deit-small': 384}[arch]
        backbone.arch = dict(embed_dims=dims, num_layers=maps, num_heads=dims // 64, feedforward_channels=4 * dims)
        backbone.out_indices = list(range(maps))
    elif kind == 'SwinTransformer' and arch is None:
        backbone.depths = (1, 1, 1, 1)
    elif kind == 'SwinTransformer':
        backbone.arch = dict(embed_dims=96, depths=(1, 1, 1, 1), num_heads=(3, 6, 12, 24))
        backbone.pad_small_map = True  # maps of images smaller than its 224 pixels


def build_shallow(cfg):
    """The model of `cfg` with few blocks and random weights: a training step takes about a second on a CPU."""
    make_shallow(cfg.model.backbone)
    if 'roi_head' in cfg.model:
        rcnn = cfg.model.train_cfg.rcnn
        for stage in rcnn if isinstance(rcnn, list) else [rcnn]:
            stage.sampler.num = 16
        heads = cfg.model.roi_head.bbox_head
        for head in heads if isinstance(heads, list) else [heads]:
            head.fc_out_channels = 64
    model = MODELS.build(cfg.model)
    model.init_weights()
    for param in model.backbone.parameters():
        param.data.add_(0.01 * torch.randn_like(param))  # zero-initialised branches, as ResNet's, pass no gradient
    return revert_sync_batchnorm(model).train()


def detection_sample(num_classes, shape):
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks

    boxes = torch.tensor([[4.0, 4.0, 36.0, 36.0], [20.0, 28.0, 60.0, 60.0]])
    masks = np.zeros((2, *shape), np.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.int(), strict=True):
        mask[y1:y2, x1:x2] = 1
    labels = torch.tensor([0, num_classes - 1])
    sample = DetDataSample(metainfo=dict(img_shape=shape, ori_shape=shape, scale_factor=(1.0, 1.0)))
    sample.gt_instances = InstanceData(bboxes=boxes, labels=labels, masks=BitmapMasks(masks, *shape))
    return sample


def segmentation_sample(num_classes, shape):
    from mmseg.structures import SegDataSample

    sample = SegDataSample(metainfo=dict(img_shape=shape, ori_shape=shape))
    sample.gt_sem_seg = PixelData(data=torch.randint(num_classes, (1, *shape)))
    return sample


def classification_sample(num_classes, shape):
    from mmpretrain.structures import DataSample

    return DataSample(metainfo=dict(img_shape=shape)).set_gt_label(torch.randint(num_classes, (1,)))


def synthetic_batch(cfg, shape=(SIZE, SIZE)):
    """Two images with their annotations; fits the model's preprocessor to their size."""
    if cfg.default_scope == 'mmdet':
        heads = cfg.model.roi_head.bbox_head
        cfg.model.data_preprocessor.pad_size_divisor = 32
        sample, head = detection_sample, heads[0] if isinstance(heads, list) else heads
    elif cfg.default_scope == 'mmseg':
        cfg.model.data_preprocessor.size = shape
        sample, head = segmentation_sample, cfg.model.decode_head
    else:
        sample, head = classification_sample, cfg.model.head
    samples = [sample(head.num_classes, shape) for _ in range(2)]
    shape = (cfg.model.backbone.get('in_channels', 3), *shape)
    return dict(inputs=[torch.randint(256, shape, dtype=torch.uint8) for _ in samples], data_samples=samples)


@pytest.mark.parametrize('name', NAMES)
def test_resumes_with_the_same_random_numbers(name, load):
    assert load(name).default_hooks.seeding.type == 'mmvmamba.engine.hooks.seed_by_position.SeedByPositionHook'


def test_there_are_configs():
    assert {form.format(variant) for form in (DET, SEG) for variant in 'tsb'} <= set(NAMES)


@pytest.mark.parametrize('name', TRAINED)
def test_takes_a_training_step(name, load):
    cfg = load(name)
    batch = synthetic_batch(cfg)
    model = build_shallow(cfg)
    if cfg.optim_wrapper.type == 'AmpOptimWrapper' and not torch.cuda.is_available():
        cfg.optim_wrapper.type = 'OptimWrapper'
        cfg.optim_wrapper.pop('loss_scale', None)
        cfg.optim_wrapper.pop('dtype', None)
    optim_wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    trained = {key: param for key, param in model.backbone.named_parameters() if param.requires_grad}
    before = {key: param.detach().clone() for key, param in trained.items()}

    loss, log = model.parse_losses(model(**model.data_preprocessor(batch, training=True), mode='loss'))
    optim_wrapper.backward(loss)
    assert all(value.isfinite() for value in log.values()), log
    assert trained
    assert not [key for key, param in trained.items() if param.grad is None or not param.grad.any()]
    assert not [key for key, param in trained.items() if not param.grad.isfinite().all()]
    optim_wrapper.step()
    assert not [key for key, param in trained.items() if torch.equal(param, before[key]) or not param.isfinite().all()]


# Backbone parameters of the released models and their stochastic depth, with the four output norms.
@pytest.mark.parametrize('form', [DET, SEG], ids=['det', 'seg'])
@pytest.mark.parametrize(
    ('variant', 'parameters', 'drop_path_rate', 'weights'),
    [
        ('t', 29_481_408, 0.2, 'vssm1_tiny_0230s_ckpt_epoch_264.pth'),
        ('s', 49_380_096, 0.3, 'vssm_small_0229_ckpt_epoch_222.pth'),
        ('b', 87_534_592, 0.6, 'vssm_base_0229_ckpt_epoch_237.pth'),
    ],
    ids=['t', 's', 'b'],
)
def test_builds_the_published_model(form, variant, parameters, drop_path_rate, weights, load):
    cfg = load(form.format(variant))
    assert cfg.model.backbone.drop_path_rate == drop_path_rate
    assert cfg.model.backbone.init_cfg.checkpoint.endswith(f'/%23v2cls/{weights}')
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    assert sum(param.numel() for param in model.backbone.parameters()) == parameters


# Names are told apart by hand here, not by the substrings of the config: the norms inside the stem and the downsampling
# have no `norm` in their names and decay, as do the scan's parameters, biases and the batch norms of the heads.
@pytest.mark.parametrize(
    ('name', 'lr', 'weight_decay'), [(DET.format('t'), 1e-4, 0.05), (SEG.format('t'), 6e-5, 0.01)], ids=['det', 'seg']
)
def test_weight_decay_groups(name, lr, weight_decay, load):
    cfg = load(name)
    model = build_shallow(cfg)
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    names = {param: key for key, param in model.named_parameters()}
    groups = {names[param]: group for group in optimizer.param_groups for param in group['params']}

    norms = {f'layers.{i}.blocks.0.{norm}' for i in range(4) for norm in ('norm', 'norm2', 'op.out_norm')}
    norms |= {f'outnorm{i}' for i in range(4)}
    exempt = {f'backbone.{norm}.{kind}' for norm in norms for kind in ('weight', 'bias')}
    block = 'backbone.layers.3.blocks.0'
    decayed = {
        'backbone.patch_embed.2.weight',
        'backbone.patch_embed.7.bias',
        'backbone.layers.0.downsample.3.weight',
        'backbone.layers.2.downsample.1.bias',
        f'{block}.op.A_logs',
        f'{block}.op.Ds',
        f'{block}.op.dt_projs_bias',
        f'{block}.mlp.fc1.bias',
    }
    if cfg.default_scope == 'mmseg':
        decayed |= {'decode_head.lateral_convs.0.bn.weight', 'auxiliary_head.convs.0.bn.bias'}

    assert type(optimizer) is torch.optim.AdamW
    assert set(groups) == set(names.values())
    assert decayed <= set(groups)
    assert {key for key, group in groups.items() if group['weight_decay'] == 0} == exempt
    assert {group['weight_decay'] for key, group in groups.items() if key not in exempt} == {weight_decay}
    assert {(group['lr'], group['betas']) for group in groups.values()} == {(lr, (0.9, 0.999))}


def learning_rates(cfg, iterations, epoch_length):
    """Learning rate of every iteration, the schedulers stepped as the training loop steps them."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))], lr=cfg.optim_wrapper.optimizer.lr)
    schedulers = [PARAM_SCHEDULERS.build(part, default_args=dict(optimizer=optimizer)) for part in cfg.param_scheduler]
    rates = []
    for iteration in range(1, iterations + 1):
        rates.append(optimizer.param_groups[0]['lr'])
        for scheduler in schedulers:
            if not scheduler.by_epoch or iteration % epoch_length == 0:
                scheduler.step()
    return rates


def test_schedule_1x(load):
    cfg = load(DET.format('t'))
    assert cfg.train_cfg.max_epochs == 12
    assert cfg.train_dataloader.batch_size == 2
    assert cfg.auto_scale_lr.base_batch_size == 16
    epoch = 1200
    rates = learning_rates(cfg, 12 * epoch, epoch)
    assert rates[0] == pytest.approx(1e-7)
    assert rates[500] == pytest.approx(1e-4 * (0.001 + 0.999 * 500 / 999))
    assert rates[998] < 1e-4
    assert rates[999 : 8 * epoch] == pytest.approx([1e-4] * (8 * epoch - 999))
    assert rates[8 * epoch : 11 * epoch] == pytest.approx([1e-5] * (3 * epoch))
    assert rates[11 * epoch :] == pytest.approx([1e-6] * epoch)


def test_schedule_160k(load):
    cfg = load(SEG.format('t'))
    assert cfg.train_cfg.max_iters == 160000
    assert cfg.train_dataloader.batch_size == 4
    assert cfg.auto_scale_lr.base_batch_size == 16
    rates = learning_rates(cfg, 160000, epoch_length=None)
    assert rates[0] == pytest.approx(6e-11)
    assert rates[750] == pytest.approx(6e-5 * 750 / 1499, rel=1e-3)
    assert rates[1498] < rates[1499] == pytest.approx(6e-5)
    for iteration in (20000, 80750, 159000):
        assert rates[iteration] == pytest.approx(6e-5 * (160000 - iteration) / (160000 - 1500), rel=1e-3)
    assert max(rates) == pytest.approx(6e-5)
    assert rates[-1] < 1e-9


def test_detection_pipelines(photo, load):
    cfg = load(DET.format('t'))
    for loader in (cfg.train_dataloader, cfg.test_dataloader):
        packed = Compose(loader.dataset.pipeline)(dict(photo))
        assert packed['inputs'].shape == (3, 800, 1067)
        assert packed['data_samples'].gt_instances.labels.tolist() == [3]
        assert packed['data_samples'].scale_factor == pytest.approx((8 / 3, 8 / 3), rel=1e-3)
    assert cfg.test_evaluator.metric == ['bbox', 'segm']


def test_segmentation_pipelines(photo, load):
    cfg = load(SEG.format('t'))
    packed = Compose(cfg.train_dataloader.dataset.pipeline)(dict(photo))
    assert max(packed['inputs'].shape) <= 512
    assert tuple(cfg.model.data_preprocessor.size) == (512, 512)

    packed = Compose(cfg.test_dataloader.dataset.pipeline)(dict(photo))
    assert packed['inputs'].shape == (3, 512, 683)
    # Ground truth stays at the size of the photo, label 1 becomes 0 and background is ignored.
    assert packed['data_samples'].gt_sem_seg.data.shape == (1, 300, 400)
    assert packed['data_samples'].gt_sem_seg.data.unique().tolist() == [0, 255]

    packed = Compose(cfg.tta_pipeline)(dict(photo))
    assert len(packed['inputs']) == 12
    assert cfg.model.test_cfg.mode == 'whole'
    assert cfg.test_evaluator.iou_metrics == ['mIoU']
