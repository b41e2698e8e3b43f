"""Tests that configs of published recipes have the published values, except for the differences they state.

The values below were transcribed once from the official code and the papers.
"""

import re
from functools import partial
from unittest.mock import patch

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS

from .test_configs import NAMES, ROOT

# Pipelines, without loading and packing steps.
COCO = [dict(type='Resize', scale=(1333, 800), keep_ratio=True)]
FLIP = dict(type='RandomFlip', prob=0.5)
SIDES = [(side, 1333) for side in range(480, 801, 32)]
DETR = [
    FLIP,
    dict(
        type='RandomChoice',
        transforms=[
            [dict(type='RandomChoiceResize', scales=SIDES, keep_ratio=True)],
            [
                dict(type='RandomChoiceResize', scales=[(400, 1333), (500, 1333), (600, 1333)], keep_ratio=True),
                dict(type='RandomCrop', crop_type='absolute_range', crop_size=(384, 600), allow_negative_crop=True),
                dict(type='RandomChoiceResize', scales=SIDES, keep_ratio=True),
            ],
        ],
    ),
]
LSJ = [
    FLIP,
    dict(type='RandomResize', scale=(1024, 1024), ratio_range=(0.1, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_type='absolute', crop_size=(1024, 1024), recompute_bbox=True),
    dict(type='FilterAnnotations'),
]
IMAGENET = [
    dict(type='RandomResizedCrop', scale=224, interpolation='bicubic'),
    FLIP,
    dict(type='RandAugment', policies='timm_increasing', num_policies=2, magnitude_level=9, magnitude_std=0.5),
    dict(type='RandomErasing', erase_prob=0.25, mode='rand', min_area_ratio=0.02, max_area_ratio=1 / 3),
]
IMAGENET_TEST = [
    dict(type='ResizeEdge', scale=256, edge='short', interpolation='bicubic'),
    dict(type='CenterCrop', crop_size=224),
]


def ade(side):
    return [
        dict(type='RandomResize', scale=(4 * side, side), ratio_range=(0.5, 2.0), keep_ratio=True),
        dict(type='RandomCrop', crop_size=(side, side), cat_max_ratio=0.75),
        FLIP,
        dict(type='PhotoMetricDistortion'),
    ]


def ade_test(side):
    return [dict(type='Resize', scale=(4 * side, side), keep_ratio=True)]


def warm_up(factor, end):
    return dict(type='LinearLR', start_factor=factor, by_epoch=False, begin=0, end=end)


def steps(end, *milestones, by_epoch=True):
    return dict(type='MultiStepLR', by_epoch=by_epoch, begin=0, end=end, milestones=list(milestones), gamma=0.1)


def poly(begin, end):
    return dict(type='PolyLR', power=1.0, eta_min=0.0, by_epoch=False, begin=begin, end=end)


def cosine(warm_up_epochs):
    """Increases to 1e-3 during the warm-up epochs, then decreases to 1e-5 by epoch 300, updated per iteration."""
    return [
        dict(type='LinearLR', start_factor=1e-3, begin=0, end=warm_up_epochs, convert_to_iter_based=True),
        dict(type='CosineAnnealingLR', eta_min=1e-5, begin=warm_up_epochs, end=300, convert_to_iter_based=True),
    ]


# Values shared by several families, by config path.
ADAM = {'optim_wrapper.optimizer.type': 'AdamW', 'optim_wrapper.optimizer.betas': (0.9, 0.999)}
PLAIN = ADAM | {'optim_wrapper.type': 'OptimWrapper', 'optim_wrapper.clip_grad': None}
RCNN_TEST = {
    'model.test_cfg.rpn.nms_pre': 1000,
    'model.test_cfg.rpn.max_per_img': 1000,
    'model.test_cfg.rpn.nms.iou_threshold': 0.7,
    'model.test_cfg.rcnn.score_thr': 0.05,
    'model.test_cfg.rcnn.nms.iou_threshold': 0.5,
    'model.test_cfg.rcnn.max_per_img': 100,
    'model.test_cfg.rcnn.mask_thr_binary': 0.5,
}
UPERNET = {
    'model.decode_head.num_classes': 150,
    'model.decode_head.pool_scales': (1, 2, 3, 6),
    'model.auxiliary_head.in_index': 2,
    'model.auxiliary_head.loss_decode.loss_weight': 0.4,
}
SLIDE = {'model.test_cfg.mode': 'slide', 'model.test_cfg.crop_size': (512, 512), 'model.test_cfg.stride': (341, 341)}
MIXING = {
    'model.head.loss.label_smooth_val': 0.1,
    'model.train_cfg.augments.0.alpha': 0.8,
    'model.train_cfg.augments.1.alpha': 1.0,
    'train_dataloader.drop_last': True,
}
VIM_CLS = PLAIN | MIXING | {'train_dataloader.sampler.type': 'RepeatAugSampler', 'custom_hooks.0.momentum': 1 - 0.99996}
VITDET = RCNN_TEST | {
    'model.data_preprocessor.pad_size_divisor': 1024,
    'model.roi_head.stage_loss_weights': [1 / 3, 1 / 3, 1 / 3],
    'model.roi_head.bbox_head.0.bbox_coder.target_stds': [1 / 10, 1 / 10, 1 / 5, 1 / 5],
    'model.roi_head.bbox_head.1.bbox_coder.target_stds': [1 / 20, 1 / 20, 1 / 10, 1 / 10],
    'model.roi_head.bbox_head.2.bbox_coder.target_stds': [1 / 30, 1 / 30, 1 / 15, 1 / 15],
    'model.neck.out_channels': 256,
    'model.rpn_head.num_convs': 2,
}
MASK_RCNN = PLAIN | RCNN_TEST | {'model.data_preprocessor.pad_size_divisor': 32}


# Name: config pattern, learning rate, weight decay, batch size, length, schedule, pipelines, other values.
FAMILIES = {
    'VMamba Mask R-CNN 1x': (
        r'vmamba/mask-rcnn_vmamba-.*fpn_(16xb1-)?1x_coco',
        (1e-4, 0.05, 16, 'max_epochs', 12),
        [warm_up(0.001, 1000), steps(12, 8, 11)],
        ([*COCO, FLIP], COCO),
        MASK_RCNN,
    ),
    'VMamba Mask R-CNN 3x': (
        r'vmamba/mask-rcnn_vmamba-.*_fpn_ms-crop-3x_coco',
        (1e-4, 0.05, 16, 'max_epochs', 36),
        [warm_up(0.001, 1000), steps(36, 27, 33)],
        (DETR, COCO),
        MASK_RCNN,
    ),
    **{
        f'VMamba UperNet {side}': (
            rf'vmamba/vmamba-.*_upernet_4xb4-160k_ade20k-{side}x{side}',
            (6e-5, 0.01, 16, 'max_iters', 160000),
            [warm_up(1e-6, 1500), poly(1500, 160000)],
            (ade(side), ade_test(side)),
            PLAIN | UPERNET | {'model.test_cfg.mode': 'whole', 'model.data_preprocessor.size': (side, side)},
        )
        for side in (512, 640, 896)
    },
    'VMamba ImageNet': (
        r'vmamba/vmamba-.*_8xb128_in1k',
        (1e-3, 0.05, 1024, 'max_epochs', 300),
        cosine(20),
        (IMAGENET, IMAGENET_TEST),
        ADAM
        | MIXING
        | {
            'optim_wrapper.type': 'AmpOptimWrapper',
            'optim_wrapper.optimizer.eps': 1e-8,
            'optim_wrapper.clip_grad.max_norm': 5.0,
            'train_dataloader.sampler.type': 'DefaultSampler',
        },
    ),
    'Vim-Ti ImageNet': (
        'vim/vim-t_8xb128_in1k',
        (1e-3, 0.1, 1024, 'max_epochs', 300),
        cosine(5),
        (IMAGENET, IMAGENET_TEST),
        VIM_CLS | {'model.backbone.drop_path_rate': 0.0},
    ),
    'Vim-S ImageNet': (
        'vim/vim-s_8xb64_in1k',
        (1e-3, 0.05, 512, 'max_epochs', 300),
        cosine(5),
        (IMAGENET, IMAGENET_TEST),
        VIM_CLS | {'model.backbone.drop_path_rate': 0.05},
    ),
    'Vim long-sequence fine-tuning': (
        'vim/vim-[ts]-plus_8xb128-30e_in1k',
        (1e-5, 1e-8, 1024, 'max_epochs', 30),
        [],
        (IMAGENET, IMAGENET_TEST),
        VIM_CLS
        | {
            'model.backbone.drop_path_rate': 0.0,
            'model.backbone.patch_stride': 8,
            'model.backbone.pretrained_cls_slot': 'official',
        },
    ),
    'Vim-Ti UperNet, paper': (
        'vim/vim-[ts]_upernet_4xb4-160k_ade20k-512x512',
        (6e-5, 0.01, 16, 'max_iters', 160000),
        [warm_up(1e-6, 1500), poly(1500, 160000)],
        (ade(512), ade_test(512)),
        PLAIN | UPERNET | {'model.backbone.out_indices': (5, 11, 17, 23), 'model.backbone.drop_path_rate': 0.1},
    ),
    'Vim-Ti UperNet, code': (
        'vim/vim-t_upernet_4xb8-60k_ade20k-512x512',
        (2e-4, 0.1, 32, 'max_iters', 60000),
        [warm_up(1e-6, 1500), poly(0, 60000)],
        (ade(512), ade_test(512)),
        PLAIN
        | UPERNET
        | SLIDE
        | {
            'model.backbone.out_indices': (5, 11, 17, 23),
            'model.backbone.drop_path_rate': 0.1,
            'model.backbone.feature': 'mixer',
            'model.backbone.rope_grid': None,
            'train_cfg.val_interval': 1000,
        },
    ),
    'Vim-S UperNet, code': (
        'vim/vim-s_upernet_4xb8-60k_ade20k-512x512',
        (1e-4, 0.05, 32, 'max_iters', 60000),
        [warm_up(1e-6, 1500), poly(0, 60000)],
        (ade(512), ade_test(512)),
        PLAIN
        | UPERNET
        | SLIDE
        | {
            'model.backbone.drop_path_rate': 0.1,
            'model.backbone.feature': 'residual_official',
            'model.backbone.rope_grid': 14,
            'model.backbone.pretrained_cls_slot': 'official',
            'train_cfg.val_interval': 1000,
        },
    ),
    'Vim detection, paper': (
        'vim/cascade-mask-rcnn_vim-[ts]_sfp_lsj-380k_coco',
        (1e-4, 0.1, 64, 'max_iters', 380000),
        [warm_up(0.001, 250), poly(250, 380000)],
        (LSJ, [dict(type='Resize', scale=(1024, 1024), keep_ratio=True)]),
        PLAIN | VITDET | {'model.backbone.drop_path_rate': 0.1},
    ),
    'Vim detection, code': (
        'vim/cascade-mask-rcnn_vim-[ts]_sfp_amp-lsj-100e_coco',
        (1e-4, 0.1, 64, 'max_iters', 184375),
        [warm_up(0.001, 250), steps(184375, 163889, 177546, by_epoch=False)],
        (LSJ, [dict(type='Resize', scale=(1024, 1024), keep_ratio=True)]),
        ADAM
        | VITDET
        | {
            'optim_wrapper.type': 'AmpOptimWrapper',
            'model.backbone.drop_path_rate': 0.1,
            'model.backbone.rope_grid': 14,
            'train_cfg.val_interval': 5000,
        },
    ),
}
MEMBERS = [
    (family, name)
    for family in FAMILIES
    for name in NAMES
    if re.fullmatch(FAMILIES[family][0], name.removesuffix('.py'))
]

# Drop path rates that differ within a family: the first pattern found in the config name applies.
DROP_PATH = {
    'vanilla.*in1k': dict(t=0.2, s=0.3, b=0.6),
    'mask-rcnn_vmamba-vanilla': dict(t=0.2, s=0.2, b=0.2),
    'vanilla.*upernet': dict(t=0.3, s=0.3, b=0.3),
    'b-s1l20': dict(b=0.5),
    'vmamba-': dict(t=0.2, s=0.3, b=0.6),
}


def value_at(cfg, path):
    for key in path.split('.'):
        cfg = cfg[int(key)] if key.isdigit() else cfg.get(key)
    return cfg


def transforms(pipeline):
    return [step for step in pipeline if not re.match('Load|Pack', step['type'])]


def assert_holds(found, expected):
    """Checks that the steps have the same types and order, and at least these arguments."""
    assert [step['type'] for step in found] == [step['type'] for step in expected]
    for step, facts in zip(found, expected):
        assert {key: step.get(key) for key in facts} == facts


def test_every_config_of_a_released_recipe_is_tested():
    """Every config that claims a recipe of the released code belongs to a family, and no family is empty."""
    claims = [
        name
        for name in NAMES
        if 'recipe of the released code' in (ROOT / name).read_text().split('_base_')[0].replace('\n# ', ' ')
    ]
    assert len(claims) > 30
    assert not set(claims) - {name for _, name in MEMBERS}
    assert {family for family, _ in MEMBERS} == set(FAMILIES)


@pytest.mark.parametrize('family, name', MEMBERS)
def test_values_match_the_published_recipe(family, name, load):
    cfg = load(name)
    _, (lr, weight_decay, batch, unit, length), schedule, (train, test), facts = FAMILIES[family]
    assert (cfg.optim_wrapper.optimizer.lr, cfg.optim_wrapper.optimizer.weight_decay) == (lr, weight_decay)
    assert cfg.train_cfg[unit] == length
    devices = re.search(r'_(\d+)xb', name)
    assert cfg.train_dataloader.batch_size * int(devices[1] if devices else 8) == batch
    assert cfg.auto_scale_lr.base_batch_size == batch
    assert_holds(cfg.param_scheduler, schedule)
    assert_holds(transforms(cfg.train_dataloader.dataset.pipeline), train)
    assert_holds(transforms(cfg.test_dataloader.dataset.pipeline), test)
    for path, value in facts.items():
        assert value_at(cfg, path) == (pytest.approx(value) if isinstance(value, float) else value), path
    if name.startswith('vmamba/'):
        rates = next(rates for pattern, rates in DROP_PATH.items() if re.search(pattern, name))
        assert cfg.model.backbone.drop_path_rate == rates[re.search(r'vmamba-(?:vanilla-)?([tsb])', name)[1]]


# Learning-rate factor of each parameter in the official code, and whether it has weight decay.


def official_swin(name, parameter, module):
    return 1, 'norm' not in name


def official_flat(name, parameter, module):
    return 1, parameter.ndim > 1 and not name.endswith('.bias') and name not in (
        'backbone.pos_embed',
        'backbone.cls_token',
    )


def official_segmentation(name, parameter, module, rate):
    embeds = name.startswith(('backbone.pos_embed', 'backbone.patch_embed'))
    return rate**25 if embeds else 1, parameter.ndim > 1 and not name.endswith('.bias')


def published_vim(name, parameter, module):
    """The papers state no rule; this is the rule in the headers of the configs."""
    undecayed = ('bias', 'pos_embed', 'cls_token', 'D', 'D_b', 'A_log', 'A_b_log')
    return 1, 'Norm' not in type(module).__name__ and name.rpartition('.')[2] not in undecayed


def official_detection(name, parameter, module, rate=0.837):
    block = re.match(r'backbone\.layers\.(\d+)\.', name)
    depth = 1 + int(block[1]) if block else 0 if name.startswith('backbone.') else 25
    return rate ** (25 - depth), name != 'backbone.pos_embed'  # detectron2 exempts none of this model's norms


# Stated differences of the configs from these rules, with their values.


def no_difference(name, official, module):
    return official


def segmentation_difference(name, official, module, rate):
    block = re.match(r'backbone\.layers\.(\d+)\.', name)
    return rate ** (24 - int(block[1])) if block else official[0], official[1] and name != 'backbone.pos_embed'


def detection_difference(name, official, module):
    norm = type(module).__name__ in ('RMSNorm', 'LayerNorm', 'LayerNorm2d')
    return official[0], official[1] and not norm and name.rpartition('.')[2] not in ('bias', 'D', 'D_b')


GROUPS = {
    'VMamba Mask R-CNN 1x': (official_swin, no_difference),
    'VMamba Mask R-CNN 3x': (official_swin, no_difference),
    'VMamba UperNet 512': (official_swin, no_difference),
    'VMamba UperNet 640': (official_swin, no_difference),
    'VMamba UperNet 896': (official_swin, no_difference),
    'VMamba ImageNet': (official_flat, no_difference),
    'Vim-Ti ImageNet': (official_flat, no_difference),
    'Vim-S ImageNet': (official_flat, no_difference),
    'Vim long-sequence fine-tuning': (official_flat, no_difference),
    'Vim-Ti UperNet, paper': (published_vim, no_difference),
    'Vim-Ti UperNet, code': (partial(official_segmentation, rate=0.92), partial(segmentation_difference, rate=0.92)),
    'Vim-S UperNet, code': (partial(official_segmentation, rate=0.95), partial(segmentation_difference, rate=0.95)),
    'Vim detection, paper': (published_vim, no_difference),
    'Vim detection, code': (official_detection, detection_difference),
}


def test_every_family_has_a_parameter_rule():
    assert set(GROUPS) == set(FAMILIES)


@pytest.mark.parametrize('family', GROUPS)
def test_rate_and_decay_of_every_parameter_match_the_rule(family, load):
    cfg = load(next(name for member, name in reversed(MEMBERS) if member == family))
    (lr, weight_decay, *_), (official, difference) = FAMILIES[family][1], GROUPS[family]
    cfg.optim_wrapper.type = 'OptimWrapper'  # AMP needs a GPU
    cfg.optim_wrapper.pop('loss_scale', None)
    with torch.device('meta'), patch('torch.linspace', partial(torch.linspace, device='cpu')):
        model = MODELS.build(cfg.model)
    groups = build_optim_wrapper(model, cfg.optim_wrapper).optimizer.param_groups
    found = {id(parameter): (group['lr'], group['weight_decay']) for group in groups for parameter in group['params']}
    for name, parameter in model.named_parameters():
        module = model.get_submodule(name.rpartition('.')[0])
        factor, decays = difference(name, official(name, parameter, module), module)
        assert found[id(parameter)] == pytest.approx((lr * factor, weight_decay * decays)), name
