import numpy as np
import pytest
import torch

pytest.importorskip('mmcv')

from mmvmamba import Vim, VMamba
from mmvmamba.analysis.attention_map import attention_map
from mmvmamba.engine.errors import LaunchError


@pytest.mark.parametrize(
    'family, arch', [(VMamba, dict(dims=8, depths=(1, 1, 2, 1))), (Vim, dict(embed_dims=16, depth=2))]
)
def test_pixel_depends_mostly_on_its_neighbourhood(family, arch):
    torch.manual_seed(0)
    backbone = family(arch)
    image = np.random.default_rng(0).integers(0, 256, (70, 130, 3), np.uint8)
    weights = attention_map(backbone.eval(), image, 100, 20)
    assert weights.shape == (70, 130) and weights.max() > 200
    assert weights[4:36, 84:116].mean() > weights[40:, :64].mean()


def test_backbone_without_scans_raises_a_one_sentence_error():
    with pytest.raises(LaunchError, match='Conv2d has no selective scan whose influence could be shown'):
        attention_map(torch.nn.Conv2d(3, 1, 1), np.zeros((64, 64, 3), np.uint8), 1, 1)


def test_models_with_other_channels_raise_a_one_sentence_error():
    with pytest.raises(LaunchError, match='shown for images of 3 channels, not 4'):
        attention_map(VMamba(dict(dims=8, depths=(1, 1, 1, 1)), in_channels=4), np.zeros((64, 64, 3), np.uint8), 1, 1)
