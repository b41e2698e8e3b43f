"""Parameters of outputs that no neck or head reads are found before a training."""

import pytest
import torch
from mmengine.registry import MODELS, DefaultScope
from torch import nn

import mmvmamba
from mmvmamba.engine.checks.unread_outputs import unread_parameters
from mmvmamba.engine.libraries import register_modules

SMALL = dict(type=mmvmamba.VMamba, arch=dict(dims=4, depths=(1, 1, 1, 1)))
WIDTHS = [4, 8, 16, 32]


def norms(*indices):
    return [f'backbone.outnorm{i}.{name}' for i in indices for name in ('weight', 'bias')]


def build(scope, **cfg):
    pytest.importorskip(scope)
    register_modules(scope)
    with DefaultScope.overwrite_default_scope(scope):
        return MODELS.build(cfg)


@pytest.mark.parametrize(('start_level', 'unread'), [(0, []), (1, [0]), (2, [0, 1])])
def test_output_below_the_start_level_of_an_fpn(start_level, unread):
    model = build(
        'mmdet',
        type='RetinaNet',
        backbone=SMALL,
        neck=dict(type='FPN', in_channels=WIDTHS, out_channels=4, num_outs=5, start_level=start_level),
        bbox_head=dict(type='RetinaHead', num_classes=1, in_channels=4, feat_channels=4),
    ).train()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert unread_parameters(model) == norms(*unread)
    assert model.training and all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_outputs_that_no_head_of_a_segmentor_names():
    def head(index, width):
        return dict(type='FCNHead', in_channels=width, in_index=index, channels=4, num_classes=2, num_convs=1)

    model = build('mmseg', type='EncoderDecoder', backbone=SMALL, decode_head=head(3, 32), auxiliary_head=head(1, 8))
    assert unread_parameters(model) == norms(0, 2)


def test_all_outputs_but_the_last_of_a_classifier():
    model = build(
        'mmpretrain',
        type='ImageClassifier',
        backbone=dict(SMALL, out_indices=(2, 3)),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=2, in_channels=32),
    )
    assert unread_parameters(model) == norms(2)


class NeedsMore(nn.Module):
    def forward(self, maps, image):
        return maps


@pytest.mark.parametrize('neck', [None, NeedsMore()])
def test_models_that_cannot_be_checked_have_no_names(neck):
    model = nn.Module()
    model.neck = neck
    model.backbone = nn.Linear(2, 2) if neck is None else MODELS.build(SMALL)
    assert unread_parameters(model) == []


def test_frozen_parameters_are_not_named():
    model = nn.Module()
    model.backbone = MODELS.build(SMALL).requires_grad_(False)
    assert unread_parameters(model) == []
