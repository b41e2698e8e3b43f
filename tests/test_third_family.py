"""Tests that a user-defined model family can be loaded, identified and converted without changes to the package."""

from collections import OrderedDict

import pytest
import torch
from mmengine.registry import MODELS
from torch import nn

from mmvmamba.checkpoint import CheckpointError, load_pretrained, match
from mmvmamba.conversion import to_mmengine, to_official
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

    found = match(Classifier(), tensors)
    assert not found.differences()
    assert torch.equal(found.taken['backbone.outnorm1.weight'], tensors['norm.weight'])
    assert torch.equal(found.taken['head.fc.bias'], tensors['head.bias'])


def test_conversion_round_trip():
    tensors = classification_file(older=False)
    converted = to_mmengine(classification_file()).taken
    assert converted.keys() == Classifier().state_dict().keys()
    back = to_official(to_mmengine(tensors).taken)
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in tensors.items())


def test_error_names_the_variant_and_family_of_the_file(tmp_path):
    torch.save(classification_file('wide'), tmp_path / 'file.pth')
    for model, asked in ((RowMamba(), 'RowMamba tiny'), (MODELS.build(dict(type='Vim', arch='tiny')), 'Vim tiny')):
        with pytest.raises(CheckpointError, match=f'This file is RowMamba wide, the config asks for {asked}'):
            load_pretrained(model, tmp_path / 'file.pth')
