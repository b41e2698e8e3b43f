"""Tests that official config files run unchanged, and that unsupported options are rejected by name."""

import importlib.util
import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import MODELS

from mmvmamba import VMamba
from mmvmamba.checkpoint import CheckpointError, read_checkpoint, unwrap_state_dict

ROOT = Path(__file__).parents[2]
KEYS = json.loads((ROOT / 'tests/golden/keys_vmamba.json').read_text())

# One block per stage; the other fields are those of the current generation, as in the official configs.
SMALL = dict(
    type='MM_VSSM',
    dims=8,
    depths=(1, 1, 1, 1),
    ssm_d_state=1,
    ssm_conv_bias=False,
    forward_type='v05_noz',
    downsample_version='v3',
    patchembed_version='v2',
)


@pytest.fixture
def log(caplog):
    logger = MMLogger.get_instance('mm_vssm')
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)


@pytest.mark.parametrize('variant', KEYS)
def test_official_arguments_build_every_variant(variant):
    with torch.device('meta'):
        model = MODELS.build(dict(type='MM_VSSM', **KEYS[variant]['kwargs']))
    assert type(model) is VMamba
    assert {name: list(tensor.shape) for name, tensor in model.state_dict().items()} == KEYS[variant]['backbone']
    rate = KEYS[variant]['kwargs']['drop_path_rate']
    assert model.layers[3].blocks[-1].drop_path.p == pytest.approx(rate)


# The vanilla configs omit norm_layer, forward_type and ssm_conv_bias.
VANILLA = dict(SMALL, ssm_d_state=16, mlp_ratio=0.0, downsample_version='v1', patchembed_version='v1')
del VANILLA['forward_type'], VANILLA['ssm_conv_bias']


def test_forward_types_with_equal_mathematics_give_equal_outputs():
    torch.manual_seed(0)
    x = torch.randn(1, 3, 64, 64)

    def output(state, **arguments):
        model = MODELS.build(arguments).eval()
        if state is not None:
            model.load_state_dict(state)
        with torch.no_grad():
            return model.state_dict(), model(x)[3]

    for base, names in (
        (VANILLA, ['v0', 'v0seq', 'v01', 'v2', 'v3', 'v2_no32']),
        (SMALL, ['v2_noz', 'v3_noz', 'v05_noz']),
    ):
        state, expected = output(None, **base)
        for name in names:
            assert torch.equal(output(state, **dict(base, forward_type=name))[1], expected), name
        assert torch.equal(output(state, **dict(base, norm_layer='LN2D'))[1], expected)
    for name in ('v051d_noz', 'v052d_noz'):
        assert not torch.equal(output(state, **dict(SMALL, forward_type=name))[1], expected), name
    # v0 has a convolution bias regardless of ssm_conv_bias
    model = MODELS.build(dict(VANILLA, forward_type='v0', ssm_conv_bias=False))
    assert model.layers[0].blocks[0].op.conv2d.bias is not None


@pytest.mark.parametrize(
    'argument',
    [
        dict(forward_type='v052dc_noz'),
        dict(forward_type='xv1a'),
        dict(forward_type='m0_noz'),
        dict(forward_type='v05_oact'),
        dict(forward_type='v2_ondwconv3'),
        dict(forward_type=2),
        dict(norm_layer='bn'),
        dict(patch_size=2),
        dict(ssm_act_layer='gelu'),
        dict(ssm_conv=-1),
        dict(ssm_drop_rate=0.1),
        dict(ssm_init='v2'),
        dict(mlp_act_layer='silu'),
        dict(mlp_drop_rate=0.1),
        dict(gmlp=True),
        dict(patch_norm=False),
        dict(downsample_version='v2'),
        dict(patchembed_version='v3'),
        dict(posembed=True),
    ],
    ids=lambda argument: '='.join(map(str, *argument.items())),
)
def test_options_that_are_not_implemented_are_rejected_by_name(argument):
    [(name, value)] = argument.items()
    with pytest.raises(ValueError, match=f'{name}={value!r} is not implemented: it must be '):
        MODELS.build(SMALL | argument)


@pytest.mark.parametrize('name', ['post_norm', 'frozen_stage', 'shift_size', '_SS2D'])
def test_unknown_arguments_are_rejected_by_name(name):
    with pytest.raises(TypeError, match=f"unexpected keyword argument '{name}'"):
        MODELS.build(SMALL | {name: 1})


SWIN = dict(
    embed_dims=96,
    num_heads=[3, 6, 12, 24],
    window_size=7,
    qkv_bias=True,
    qk_scale=None,
    drop_rate=0.0,
    attn_drop_rate=0.0,
    use_abs_pos_embed=False,
    strides=(4, 2, 2, 2),
    convert_weights=True,
    with_cp=False,
    norm_cfg=dict(type='LN'),
    act_cfg=dict(type='GELU'),
    pretrain_img_size=224,
    patch_norm=True,
    init_cfg=dict(type='Pretrained', checkpoint='https://example.org/swin_tiny_patch4_window7_224.pth'),
)


def test_inherited_swin_arguments_are_ignored_and_reported(log):
    model = MODELS.build(SMALL | SWIN)
    [ignored, dropped] = [record for record in log.records if 'Swin' in record.getMessage()]
    assert ignored.levelno == logging.INFO
    for name in set(SWIN) - {'qk_scale', 'with_cp', 'patch_norm', 'init_cfg'}:
        assert name in ignored.getMessage()
    assert dropped.levelno == logging.WARNING
    assert 'swin_tiny_patch4_window7_224.pth' in dropped.getMessage()
    assert model.init_cfg is None
    model.init_weights()
    assert 'starts from random weights' in log.text


def test_use_checkpoint_and_with_cp_enable_checkpointing():
    assert not MODELS.build(SMALL).with_cp
    assert MODELS.build(SMALL | dict(use_checkpoint=True)).with_cp
    assert MODELS.build(SMALL | dict(with_cp=True)).with_cp


def test_version_names_are_case_insensitive():
    names = MODELS.build(SMALL | dict(downsample_version='v3', patchembed_version='v2')).state_dict().keys()
    assert MODELS.build(SMALL | dict(downsample_version='V3', patchembed_version='V2')).state_dict().keys() == names


def test_pretrained_weights_load(tmp_path, log):
    source = MODELS.build(SMALL)
    path = tmp_path / 'vssm.pth'
    torch.save(dict(model={k: v for k, v in source.state_dict().items() if 'outnorm' not in k}), path)
    for weights in (dict(pretrained=str(path)), dict(init_cfg=dict(type='Pretrained', checkpoint=str(path)))):
        model = MODELS.build(SMALL | weights)
        model.init_weights()
        assert torch.equal(model.patch_embed[0].weight, source.patch_embed[0].weight)
    MODELS.build(SMALL | dict(pretrained='')).init_weights()
    assert 'starts from random weights' in log.text

    with pytest.raises(CheckpointError, match=r'none\.pth does not exist'):
        MODELS.build(SMALL | dict(pretrained=str(tmp_path / 'none.pth'))).init_weights()
    with pytest.raises(CheckpointError, match='does not fit VMamba; missing keys: layers.2.blocks.1'):
        MODELS.build(SMALL | dict(pretrained=str(path), depths=(1, 1, 2, 1))).init_weights()
    with pytest.raises(ValueError, match='both name weights'):
        MODELS.build(SMALL | dict(pretrained='a.pth', init_cfg=dict(type='Pretrained', checkpoint='b.pth')))


# The official configs with one block per stage. They are in the config folders of mmdet and mmseg and extend Swin's.

DETECTOR_TINY = """
_base_ = [
    '{configs}/swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py'
]

model = dict(
    backbone=dict(
        type='MM_VSSM',
        out_indices=(0, 1, 2, 3),
        pretrained="",
        dims=96,
        depths=(1, 1, 1, 1),
        ssm_d_state=1,
        ssm_dt_rank="auto",
        ssm_ratio=1.0,
        ssm_conv=3,
        ssm_conv_bias=False,
        forward_type="v05_noz",
        mlp_ratio=4.0,
        downsample_version="v3",
        patchembed_version="v2",
        drop_path_rate=0.2,
        norm_layer="ln2d",
    ),
)
"""

DETECTOR_SMALL_3X = (
    DETECTOR_TINY.replace('ssm_ratio=1.0', 'ssm_ratio=2.0').replace('drop_path_rate=0.2', 'drop_path_rate=0.3')
    + """
train_pipeline = [
    dict(type='LoadImageFromFile', backend_args={{{{_base_.backend_args}}}}),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='RandomFlip', prob=0.5),
    dict(
        type='RandomChoice',
        transforms=[
            [dict(type='RandomChoiceResize', scales=[(480, 1333), (800, 1333)], keep_ratio=True)],
            [
                dict(type='RandomChoiceResize', scales=[(400, 1333), (600, 1333)], keep_ratio=True),
                dict(type='RandomCrop', crop_type='absolute_range', crop_size=(384, 600), allow_negative_crop=True),
                dict(type='RandomChoiceResize', scales=[(480, 1333), (800, 1333)], keep_ratio=True)
            ]
        ]),
    dict(type='PackDetInputs')
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))

max_epochs = 36
train_cfg = dict(max_epochs=max_epochs)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=1000),
    dict(type='MultiStepLR', begin=0, end=max_epochs, by_epoch=True, milestones=[27, 33], gamma=0.1)
]
optim_wrapper = dict(
    type='OptimWrapper',
    paramwise_cfg=dict(
        custom_keys={{
            'absolute_pos_embed': dict(decay_mult=0.),
            'relative_position_bias_table': dict(decay_mult=0.),
            'norm': dict(decay_mult=0.)
        }}),
    optimizer=dict(_delete_=True, type='AdamW', lr=0.0001, betas=(0.9, 0.999), weight_decay=0.05))
"""
)

SEGMENTOR_BASE = (
    DETECTOR_TINY.replace(
        'mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py',
        'swin-base-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512.py',
    )
    .replace('dims=96', 'dims=128')
    .replace('ssm_ratio=1.0', 'ssm_ratio=2.0')
    .replace('drop_path_rate=0.2', 'drop_path_rate=0.6')
)

CUSTOM_IMPORTS = "custom_imports = dict(imports=['mmvmamba'], allow_failed_imports=False)\n"

# Overrides of data paths and image sizes, so that two steps take seconds.
LOADERS = [
    f'{stage}_dataloader.{key}'
    for stage in ('train', 'val', 'test')
    for key in ('num_workers=0', 'persistent_workers=False')
]
COMMON = [*LOADERS, 'default_hooks.checkpoint.save_optimizer=False', 'default_hooks.logger.interval=1']
DETECTOR = [
    *COMMON,
    'train_cfg.max_epochs=1',
    'train_cfg.val_interval=2',
    'model.test_cfg.rcnn.max_per_img=5',
    'model.train_cfg.rcnn.sampler.num=16',
    'model.test_cfg.rcnn.score_thr=0.0',
    'model.test_cfg.rpn.max_per_img=10',
    'test_dataloader.dataset.pipeline.1.scale=(96,96)',
]
SCALES = 'train_dataloader.dataset.pipeline.3.transforms'


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """Two images with one square each, at the paths where the official configs expect COCO and ADE20K."""
    mmcv = pytest.importorskip('mmcv')
    classes = pytest.importorskip('mmdet.datasets').CocoDataset.METAINFO['classes']
    categories = [dict(id=number, name=name) for number, name in enumerate(classes, start=1)]
    root = tmp_path_factory.mktemp('official')
    coco, ade = root / 'data/coco', root / 'data/ade/ADEChallengeData2016'
    for coco_split, ade_split in (('train2017', 'training'), ('val2017', 'validation')):
        images, annotations = [], []
        for number in range(2):
            picture, labels = np.full((96, 96, 3), 60 * number, np.uint8), np.ones((96, 96), np.uint8)
            picture[16:64, 24:80], labels[16:64, 24:80] = 255, 13
            mmcv.imwrite(picture, str(coco / coco_split / f'{number}.jpg'))
            mmcv.imwrite(picture, str(ade / 'images' / ade_split / f'{number}.jpg'))
            mmcv.imwrite(labels, str(ade / 'annotations' / ade_split / f'{number}.png'))
            images.append(dict(id=number, file_name=f'{number}.jpg', width=96, height=96))
            annotations.append(
                dict(
                    id=number + 1,
                    image_id=number,
                    category_id=1,
                    bbox=[24, 16, 56, 48],
                    area=56 * 48,
                    iscrowd=0,
                    segmentation=[[24, 16, 80, 16, 80, 64, 24, 64]],
                )
            )
        (coco / 'annotations').mkdir(exist_ok=True)
        (coco / f'annotations/instances_{coco_split}.json').write_text(
            json.dumps(dict(images=images, annotations=annotations, categories=categories))
        )
    return root


def tool(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / 'tools' / f'{name}.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return lambda *arguments: module.main([str(argument) for argument in arguments])


@pytest.mark.slow
@pytest.mark.parametrize(
    'library, official, options',
    [
        ('mmdet', DETECTOR_TINY, [*DETECTOR, 'train_dataloader.dataset.pipeline.2.scale=(96,96)']),
        (
            'mmdet',
            DETECTOR_SMALL_3X,
            [*DETECTOR, *(f'{SCALES}.{place}.scales=[(96,96),(64,96)]' for place in ('0.0', '1.0', '1.2'))],
        ),
        (
            'mmseg',
            SEGMENTOR_BASE,
            [
                *COMMON,
                'train_cfg.max_iters=1',
                'train_cfg.val_interval=2',
                'model.decode_head.channels=64',
                'model.data_preprocessor.size=(64,64)',
                'train_dataloader.dataset.pipeline.3.crop_size=(64,64)',
                'train_dataloader.dataset.pipeline.2.scale=(96,96)',
                'test_dataloader.dataset.pipeline.1.scale=(96,96)',
            ],
        ),
    ],
    ids=['detector-tiny', 'detector-small-3x', 'segmentor-base'],
)
def test_official_config_files_run(library, official, options, data, tmp_path, monkeypatch):
    package = pytest.importorskip(library)
    monkeypatch.chdir(data)
    config = tmp_path / 'official.py'
    official = official.format(configs=Path(package.__file__).parent / '.mim/configs')
    config.write_text(official + CUSTOM_IMPORTS)
    tool('train')(config, '--work-dir', tmp_path, '--cfg-options', *options)
    [log] = [path.read_text() for path in tmp_path.glob('*/*.log')]
    assert 'MM_VSSM ignores the init_cfg of Swin that its config inherits: https://' in log
    assert 'VMamba starts from random weights' in log
    assert 'loss: ' in log

    checkpoint = tmp_path / (tmp_path / 'last_checkpoint').read_text()
    trained = unwrap_state_dict(read_checkpoint(checkpoint))
    model = MODELS.build(Config.fromfile(config).model.backbone)
    model.load_state_dict({name[9:]: tensor for name, tensor in trained.items() if name.startswith('backbone.')})
    tool('test')(config, checkpoint, '--work-dir', tmp_path / 'test', '--cfg-options', *options)
    [metrics] = (tmp_path / 'test').glob('*/*.json')
    assert {'coco/bbox_mAP', 'coco/segm_mAP'} <= set(json.loads(metrics.read_text())) or library == 'mmseg'
