"""A config may name weights as `pretrained`; a tool that only tests the model does not read them."""

import pytest
from mmengine.config import Config

import mmvmamba
from mmvmamba.engine.deferred_pretrained import defer_pretrained

PRETRAINED = dict(type='Pretrained', checkpoint='a.pth')


def backbone_of(**model) -> tuple[dict, dict]:
    cfg = Config(dict(model=dict(model)))
    defer_pretrained(cfg)
    return cfg.model, cfg.model.backbone


@pytest.mark.parametrize('kind', ['VMamba', 'Vim', 'mmengine.VMamba', mmvmamba.VMamba])
def test_pretrained_of_a_backbone_becomes_its_init_cfg(kind):
    assert backbone_of(backbone=dict(type=kind, pretrained='a.pth'))[1] == dict(type=kind, init_cfg=PRETRAINED)


def test_pretrained_of_a_segmentor_becomes_the_init_cfg_of_its_backbone():
    model, backbone = backbone_of(pretrained='a.pth', backbone=dict(type='VMamba'))
    assert 'pretrained' not in model and backbone.init_cfg == PRETRAINED


def test_models_inside_a_wrapper_are_changed():
    cfg = Config(dict(model=dict(type='Wrapper', models=[dict(backbone=dict(type='Vim', pretrained='a.pth'))])))
    defer_pretrained(cfg)
    assert cfg.model.models[0].backbone == dict(type='Vim', init_cfg=PRETRAINED)


@pytest.mark.parametrize(
    'model',
    [
        dict(pretrained=None, backbone=dict(type='VMamba', init_cfg=None)),
        dict(pretrained='open-mmlab://resnet50_v1c', backbone=dict(type='ResNetV1c')),
        dict(backbone=dict(type='VMamba', pretrained='a.pth', init_cfg=dict(type='Pretrained', checkpoint='b.pth'))),
        dict(type='NoBackbone'),
    ],
)
def test_other_settings_are_unchanged(model):
    cfg = Config(dict(model=model))
    before = cfg.to_dict()
    defer_pretrained(cfg)
    assert cfg.to_dict() == before
