"""Tests the parameter groups of the layer-decay constructor for both families in the three libraries."""

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from mmvmamba import Vim, VMamba

BACKBONES = dict(
    VMamba=dict(type='VMamba', arch=dict(dims=8, depths=(1, 2, 1, 1)), out_indices=(3,)),
    Vim=dict(type='Vim', arch=dict(embed_dims=64, depth=5)),
)
SEGMENTOR = dict(type='EncoderDecoder', decode_head=dict(type='FCNHead', in_channels=64, channels=8, num_classes=2))
CLASSIFIER = dict(type='ImageClassifier', head=dict(type='LinearClsHead', in_channels=64, num_classes=2))
DETECTOR = dict(
    type='RetinaNet',
    neck=dict(type='SimpleFeaturePyramid', in_channels=64, out_channels=16),
    bbox_head=dict(
        type='RetinaHead',
        num_classes=2,
        in_channels=16,
        feat_channels=16,
        stacked_convs=1,
        anchor_generator=dict(
            type='AnchorGenerator', octave_base_scale=4, scales_per_octave=1, ratios=[1.0], strides=[4, 8, 16, 32, 64]
        ),
    ),
)
MODELS_OF = dict(mmdet=DETECTOR, mmseg=SEGMENTOR, mmpretrain=CLASSIFIER)


def build(model, **paramwise_cfg):
    return build_optim_wrapper(
        model,
        dict(
            type='OptimWrapper',
            optimizer=dict(type='AdamW', lr=1.0, weight_decay=0.1),
            constructor='LayerDecayOptimWrapperConstructor',
            paramwise_cfg=paramwise_cfg,
        ),
    )


def by_name(optim_wrapper):
    """Returns the learning rate and weight decay of each parameter."""
    return {
        name: (g['lr'], g['weight_decay']) for g in optim_wrapper.optimizer.param_groups for name in g['param_names']
    }


@pytest.mark.parametrize('family', BACKBONES)
@pytest.mark.parametrize('library', MODELS_OF)
def test_each_depth_has_its_learning_rate(family, library, request):
    pytest.importorskip(library)
    __import__(f'{library}.models')
    with DefaultScope.overwrite_default_scope(library):
        model = MODELS.build(dict(MODELS_OF[library], backbone=BACKBONES[family]))
        optim_wrapper = build(model, layer_decay_rate=0.5)
        for group in optim_wrapper.optimizer.param_groups:
            print(f'lr {group["lr"]:.4f}, decay {group["weight_decay"]}: {", ".join(group["param_names"])}')

    found = by_name(optim_wrapper)
    assert found.keys() == dict(model.named_parameters()).keys()
    grouped = [p for group in optim_wrapper.optimizer.param_groups for p in group['params']]
    assert len(grouped) == len(set(grouped)) == len(found)

    blocks = 5
    seen = set()
    for name, (lr, decay) in found.items():
        depth = expected_depth(name)
        seen.add(depth)
        assert lr == 0.5 ** (blocks + 1 - depth), name
        assert decay == (0.1 if is_weight(name, model.get_parameter(name)) else 0.0), name
    assert seen == set(range(blocks + 2))  # every block has its own rate


def expected_depth(name):
    """Expected depths, written out so that they do not repeat a mistake of the models."""
    if name.startswith(('backbone.patch_embed', 'backbone.pos_embed', 'backbone.cls_token')):
        return 0
    parts = name.split('.')
    if not name.startswith('backbone.layers'):
        return 6
    if parts[3] == 'blocks':
        return {'0.0': 1, '1.0': 2, '1.1': 3, '2.0': 4, '3.0': 5}[f'{parts[2]}.{parts[4]}']
    if parts[3] == 'downsample':
        return {'0': 2, '1': 4, '2': 5}[parts[2]]
    return 1 + int(parts[2])


def is_weight(name, parameter):
    return parameter.ndim > 1 and not name.endswith(('A_log', 'A_b_log', 'A_logs', 'pos_embed', 'dt_projs_bias'))


def test_parameters_without_weight_decay():
    """The names are listed explicitly, because a rule based on shapes can miss 2-D biases, class tokens and A."""
    model = nn.ModuleDict(dict(backbone=Vim(dict(embed_dims=16, depth=1), pooling='double'), other=VMamba('tiny')))
    decayed = {name for name, (_, decay) in by_name(build(model)).items() if decay}
    kinds = {name.split('.', 2)[-1].split('.mixer.')[-1].split('.op.')[-1] for name in decayed}
    assert (
        'in_proj.weight' in kinds
        and 'conv1d_b.weight' in kinds
        and 'x_proj_weight' in kinds
        and 'dt_projs_weight' in kinds
    )
    for name in decayed:
        assert not name.endswith(
            ('bias', 'A_log', 'A_b_log', 'A_logs', 'D', 'D_b', 'Ds', '_token_head', '_token_tail')
        ), name
        assert 'norm' not in name and 'pos_embed' not in name, name


def test_A_can_be_decayed():
    model = nn.ModuleDict(
        dict(backbone=Vim(dict(embed_dims=16, depth=1)), other=VMamba(dict(dims=8, depths=(1, 1, 1, 1))))
    )
    changed = {
        name for name, value in by_name(build(model, decay_A=True)).items() if value != by_name(build(model))[name]
    }
    assert changed == {name for name, _ in model.named_parameters() if name.endswith(('A_log', 'A_b_log', 'A_logs'))}
    assert len(changed) == 2 + 4


def test_frozen_parameters_are_excluded():
    model = nn.ModuleDict(dict(backbone=Vim(dict(embed_dims=16, depth=3), frozen_stages=2)))
    assert {name.split('.')[2] for name in by_name(build(model, layer_decay_rate=0.9))} == {'2'}


def test_scheduler_keeps_the_ratios_of_the_rates():
    from mmengine.optim import LinearLR

    optim_wrapper = build(nn.ModuleDict(dict(backbone=Vim(dict(embed_dims=16, depth=2)))), layer_decay_rate=0.5)
    LinearLR(optim_wrapper.optimizer, start_factor=0.1)
    assert {round(group['lr'], 6) for group in optim_wrapper.optimizer.param_groups} == {0.0125, 0.025, 0.05}


def test_layer_decay_rate_needs_layer_depths():
    model = nn.ModuleDict(dict(backbone=nn.Linear(2, 2)))
    assert by_name(build(model)) == {'backbone.weight': (1.0, 0.1), 'backbone.bias': (1.0, 0.0)}
    with pytest.raises(ValueError, match='layer_decay_rate=0.9 needs a backbone with get_layer_depth, which Linear'):
        build(model, layer_decay_rate=0.9)


def test_invalid_options_are_rejected():
    model = nn.ModuleDict(dict(backbone=nn.Linear(2, 2)))
    with pytest.raises(ValueError, match='Unknown option of paramwise_cfg: norm_decay_mult'):
        build(model, norm_decay_mult=0.0)
    cfg = dict(optimizer=dict(type='AdamW'), constructor='LayerDecayOptimWrapperConstructor')
    with pytest.raises(ValueError, match='needs an lr'):
        build_optim_wrapper(model, cfg)


def test_optimizer_step_runs():
    model = nn.ModuleDict(dict(backbone=Vim(dict(embed_dims=16, depth=2))))
    optim_wrapper = build(model, layer_decay_rate=0.5)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optim_wrapper.update_params(model['backbone'](torch.randn(1, 3, 32, 32))[0].square().mean())
    assert all(not torch.equal(p, before[name]) for name, p in model.named_parameters())
