"""Images with another number of channels than the backbone expects are named before the first iteration."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from mmvmamba.engine.checks.channels import check_channels
from mmvmamba.engine.errors import DataError


def model(in_channels, means=0):
    found = nn.Module()
    found.backbone, found.data_preprocessor = nn.Module(), nn.Module()
    found.backbone.in_channels = in_channels
    if means:
        found.data_preprocessor.register_buffer('mean', torch.zeros(means, 1, 1))
    return found


def sample(channels):
    return dict(inputs=torch.zeros(channels, 8, 8), data_samples=SimpleNamespace(img_path='a.tif'))


def test_other_numbers_of_channels_are_rejected():
    with pytest.raises(
        DataError, match=r'a\.tif has 4 channels after its pipeline, but the backbone has in_channels=3'
    ):
        check_channels(model(3, means=3), sample(4), 'the training data')
    with pytest.raises(DataError, match=r'a\.tif has 1 channel after its pipeline, but the backbone has in_channels=3'):
        check_channels(model(3), sample(1), 'the training data')


def test_matching_channels_and_other_inputs_are_accepted():
    check_channels(model(4), sample(4), 'it')
    check_channels(model(3, means=3), sample(1), 'it')  # the preprocessor makes three channels of it
    check_channels(model(None), sample(4), 'it')
    check_channels(nn.Linear(1, 1), sample(4), 'it')
    check_channels(model(3), dict(inputs=[torch.zeros(4, 8, 8)]), 'it')  # two views of an image
    check_channels(model(3), 'a.tif', 'it')
