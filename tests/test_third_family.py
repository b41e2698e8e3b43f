"""Tests that a user-defined model family can be loaded, identified and converted without changes to the package."""

from collections import OrderedDict

import pytest
import torch
from mmengine.registry import MODELS
from torch import nn

from mmvmamba import Vim, VMamba
from mmvmamba.checkpoint import CheckpointError, CheckpointSpec, load_pretrained, match_state_dict
from mmvmamba.conversion import released_backbone, to_mmengine, to_official
from mmvmamba.models.backbone import FAMILIES, Backbone, register_family, registered_family
from tests.toy_family import RowMamba


def classification_file(arch='tiny', older=True):
    tensors = RowMamba(arch).state_dict()
    tensors = {name.replace('outnorm1.', 'norm.'): torch.randn_like(tensor) for name, tensor in tensors.items()}
    tensors |= {'head.weight': torch.randn(5, tensors['norm.weight'].shape[0]), 'head.bias': torch.randn(5)}
    return {name.replace('.A_log', '.log_decay') if older else name: tensor for name, tensor in tensors.items()}


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = RowMamba()
        self.head = nn.Module()
        self.head.fc = nn.Linear(8, 5)


def test_classification_file_with_older_keys_loads(tmp_path):
    tensors = classification_file()
    torch.save({'model': OrderedDict(tensors), 'epoch': 3}, tmp_path / 'file.pth')
    model = MODELS.build(dict(type='RowMamba', pretrained=str(tmp_path / 'file.pth')))
    model.init_weights()
    assert torch.equal(model.layers[0].A_log, tensors['layers.0.log_decay'])
    assert torch.equal(model.outnorm1.weight, tensors['norm.weight'])
    of_several = MODELS.build(dict(type='RowMamba', out_indices=(0, 1), pretrained=str(tmp_path / 'file.pth')))
    of_several.init_weights()
    assert (of_several.outnorm1.weight == 1).all(), 'the norm of a classifier is not that of a map among several'

    found = match_state_dict(Classifier(), tensors)
    assert not found.differences()
    assert torch.equal(found.tensors['backbone.outnorm1.weight'], tensors['norm.weight'])
    assert torch.equal(found.tensors['head.fc.bias'], tensors['head.bias'])


def test_conversion_round_trip():
    tensors = classification_file(older=False)
    converted = to_mmengine(classification_file()).tensors
    assert converted.keys() == Classifier().state_dict().keys()
    back = to_official(to_mmengine(tensors).tensors)
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in tensors.items())


def test_error_names_the_variant_and_family_of_the_file(tmp_path):
    torch.save(classification_file('wide'), tmp_path / 'file.pth')
    for model, asked in ((RowMamba(), 'RowMamba tiny'), (MODELS.build(dict(type='Vim', arch='tiny')), 'Vim tiny')):
        with pytest.raises(CheckpointError, match=f'This file is RowMamba wide, the config asks for {asked}'):
            load_pretrained(model, tmp_path / 'file.pth')


class MinimalBackbone(nn.Module):
    """Implements `CheckpointSpec` without inheriting from `Backbone`."""

    missing_ok = ('norm.',)
    unexpected_ok = ('head.',)
    classifier_keys = {'norm.': 'backbone.norm.', 'head.': 'head.fc.'}

    def __init__(self):
        super().__init__()
        self.proj, self.norm = nn.Linear(4, 4), nn.LayerNorm(4)

    @staticmethod
    def rename_checkpoint_key(key):
        return key.replace('embed.', 'proj.')

    def resize_checkpoint_tensors(self, tensors):
        return tensors

    def keys_to_skip(self, keys):
        return set()

    def describe_mismatch(self, tensors):
        return 'This is another model'


@pytest.mark.parametrize('make', [RowMamba, VMamba, Vim, MinimalBackbone])
def test_backbone_satisfies_the_protocol(make):
    with torch.device('meta'):
        assert isinstance(make(), CheckpointSpec)


def test_module_without_the_protocol_is_not_taken_for_a_backbone():
    assert not isinstance(nn.Linear(1, 1), CheckpointSpec)


def test_protocol_is_all_that_loading_needs(tmp_path):
    tensors = MinimalBackbone().state_dict()
    old = {key.replace('proj.', 'embed.'): tensor + 1 for key, tensor in tensors.items()} | {'head.bias': torch.ones(3)}
    torch.save(old, tmp_path / 'file.pth')
    backbone = MinimalBackbone()
    load_pretrained(backbone, tmp_path / 'file.pth')
    assert torch.equal(backbone.proj.weight, old['embed.weight'])
    model = nn.Module()
    model.backbone = MinimalBackbone()
    match_state_dict(model, old).load_into(model)
    assert torch.equal(model.backbone.norm.bias, old['norm.bias'])
    with pytest.raises(CheckpointError, match='This is another model; missing keys: proj.weight, proj.bias; un'):
        load_pretrained(backbone, write(tmp_path, {'x': torch.ones(1)}))


def write(folder, tensors):
    torch.save(tensors, folder / 'other.pth')
    return folder / 'other.pth'


CELL = """
@register_family
class NotebookMamba(RowMamba):
    archs = {'narrow': dict(width=6, depth=2)}
"""


@pytest.fixture
def families():
    """Restores the registry."""
    before = dict(FAMILIES)
    yield FAMILIES
    FAMILIES.clear()
    FAMILIES.update(before)


def test_family_that_is_defined_again_replaces_its_predecessor(families):
    count = len(families)
    scope = dict(RowMamba=RowMamba, register_family=register_family, __name__='__main__')
    exec(CELL, scope)
    first = scope['NotebookMamba'](dict(width=6, depth=2))
    exec(CELL.replace('narrow', 'slim'), scope)
    assert len(families) == count + 1
    assert scope['NotebookMamba'] in families.values() and type(first) not in families.values()
    assert registered_family(type(first)) is scope['NotebookMamba']
    with pytest.raises(CheckpointError, match='This checkpoint does not fit NotebookMamba'):
        first.load_state_dict({**first.state_dict(), 'extra': torch.ones(1)})
    with pytest.raises(CheckpointError, match='This file is NotebookMamba slim, the config asks for RowMamba tiny'):
        RowMamba().load_state_dict(first.state_dict())


def test_subclass_with_its_own_architectures_can_be_a_family(families):
    @register_family
    class SmallVMamba(VMamba):
        archs = {'pico': dict(dims=8, depths=(1, 1, 1, 1))}

    with torch.device('meta'):
        tensors = SmallVMamba('pico').state_dict()
    with pytest.raises(CheckpointError, match='This file is SmallVMamba pico, the config asks for VMamba tiny_s1l8'):
        match_state_dict(VMamba('tiny'), tensors)
    assert type(released_backbone(tensors)) is SmallVMamba


def test_family_without_architectures_is_rejected(families):
    with pytest.raises(ValueError, match='Empty.archs is empty: add the released architectures by name'):
        register_family(type('Empty', (Backbone,), {}))


class WiderVMamba(VMamba):
    """A user's model, whose constructor does not take `arch`."""

    def __init__(self, pretrained=None):
        super().__init__('tiny', pretrained=pretrained)
        self.extra = nn.Linear(2, 2)


def test_subclass_of_a_family_loads_and_is_not_a_family():
    with torch.device('meta'):
        model, tensors = WiderVMamba(), VMamba('tiny').state_dict()
    assert WiderVMamba not in FAMILIES.values() and registered_family(WiderVMamba) is VMamba
    assert set(match_state_dict(model, model.state_dict()).tensors) == set(model.state_dict())
    with pytest.raises(CheckpointError, match='This checkpoint does not fit WiderVMamba; missing keys: extra.weight'):
        match_state_dict(model, tensors)
    with torch.device('meta'):
        other = VMamba('small').state_dict()
    with pytest.raises(CheckpointError, match='This file is VMamba small_s2l15, the config asks for WiderVMamba tiny'):
        match_state_dict(model, other)
    assert type(released_backbone(tensors)) is VMamba
