"""Tests effective receptive fields on networks with a known field, and the areas that contain them."""

import pytest
import torch
from torch import nn

from mmvmamba import Vim
from mmvmamba.analysis.receptive_field import area_holding, receptive_field
from mmvmamba.engine.errors import LaunchError


def test_field_of_a_convolution_matches_its_positive_weights():
    """The field is 3x3 pixels with the weights of the positive colours, from the one image that passes the ReLU."""
    network = nn.Conv2d(3, 1, 3, padding=1, bias=False)
    nn.init.ones_(network.weight)
    network.weight.data[:, 2] = -1
    lit, dark = torch.zeros(2, 1, 3, 8, 12).unbind()
    lit[:, 0], dark[:, 2] = 1, 1
    field = receptive_field(network, [lit, dark])
    expected = torch.zeros(8, 12, dtype=torch.float64)
    expected[3:6, 5:8] = 2 / 2  # two positive colours, in one of two images
    assert torch.equal(field, expected)


def test_areas_contain_the_given_share_of_the_field():
    field = torch.zeros(10, 20)
    field[4:6, 8:12] = 1.0  # the central 2 x 4
    assert area_holding(field, 1.0) == pytest.approx(8 / 200)
    assert area_holding(torch.ones(10, 20), 0.25) == pytest.approx(0.25)
    assert area_holding(torch.ones(33, 33), 0.99) == 1.0
    assert area_holding(field, 0.2) < area_holding(field, 0.99)


def test_pooled_feature_is_rejected():
    network = Vim(arch=dict(embed_dims=16, depth=1), img_size=32, pooling='mean')
    with pytest.raises(LaunchError, match='returns one feature instead of maps'):
        receptive_field(network, [torch.randn(1, 3, 32, 32)])
