"""Tests the simple feature pyramid of ViTDet."""

import pytest
import torch
from mmengine.registry import MODELS

from mmvmamba import SimpleFeaturePyramid, Vim


@pytest.mark.parametrize(
    'size, expected',
    [
        ((4, 6), [(16, 24), (8, 12), (4, 6), (2, 3), (1, 2)]),
        ((3, 5), [(12, 20), (6, 10), (3, 5), (2, 3), (1, 2)]),
        ((1, 1), [(4, 4), (2, 2), (1, 1), (1, 1), (1, 1)]),
    ],
)
def test_levels_have_the_expected_sizes(size, expected):
    outs = SimpleFeaturePyramid(16, 8)((torch.randn(2, 16, *size),))
    assert [out.shape for out in outs] == [(2, 8, *level) for level in expected]


def test_levels_are_normalised_over_channels():
    outs = SimpleFeaturePyramid(16, 32)((torch.randn(2, 16, 8, 8) * 50,))
    for out in outs:
        torch.testing.assert_close(out.mean(1), torch.zeros_like(out[:, 0]), atol=1e-5, rtol=0)
        torch.testing.assert_close(out.var(1, unbiased=False), torch.ones_like(out[:, 0]), atol=1e-2, rtol=0)


def test_norms_use_the_epsilon_of_detectron2():
    """The LayerNorm of detectron2 has another epsilon than PyTorch's 1e-5, which matters for small inputs."""
    norms = [module for module in SimpleFeaturePyramid(16).modules() if isinstance(module, torch.nn.LayerNorm)]
    assert [norm.eps for norm in norms] == [1e-6] * 9


def test_parameter_count_matches_vitdet():
    """Counted from the paper's description, for an input width of 192 and 256 output channels."""
    enlarge = (192 * 96 * 4 + 96) * 2 + 2 * 96 + 96 * 48 * 4 + 48
    levels = sum(width * 256 + 256 * 256 * 9 + 4 * 256 for width in (48, 96, 192, 192))
    assert sum(p.numel() for p in SimpleFeaturePyramid(192).parameters()) == enlarge + levels


def test_levels_are_aligned():
    """Changing one cell of the input changes the same place on every level."""
    neck = SimpleFeaturePyramid(8, 8).eval()
    x = torch.randn(1, 8, 1, 1).expand(1, 8, 16, 16).clone()
    changed = x.clone()
    changed[..., 8, 12] += 10
    for out, other, scale in zip(neck((x,)), neck((changed,)), (4, 2, 1, 0.5)):
        rows, columns = ((out - other).abs().amax((0, 1)) > 1e-4).nonzero().unbind(1)
        for indices, place in ((rows, 8), (columns, 12)):  # the 3x3 convolution extends the change by one cell
            assert indices.min() == int(place * scale) - 1
            assert indices.max() == int((place + 1) * scale - 0.5) + 1


def test_levels_are_contiguous():
    """mmcv's RoIAlign silently reads a channels-last tensor as NCHW."""
    assert all(out.is_contiguous() for out in SimpleFeaturePyramid(16, 8)((torch.randn(2, 16, 4, 6),)))


def test_every_parameter_gets_a_gradient_behind_a_plain_backbone():
    backbone = Vim(dict(embed_dims=16, depth=1))
    neck = MODELS.build(dict(type='SimpleFeaturePyramid', in_channels=16, out_channels=8))
    sum((out * torch.randn_like(out)).sum() for out in neck(backbone(torch.randn(1, 3, 96, 64)))).backward()
    assert all(p.grad.abs().max() > 0 for p in neck.parameters())
    assert all(p.grad is not None for p in backbone.parameters())


def test_several_input_maps_are_rejected():
    with pytest.raises(ValueError, match='takes one map, not 2: give the backbone one out_index'):
        SimpleFeaturePyramid(16)((torch.randn(1, 16, 2, 2),) * 2)


@pytest.mark.parametrize('library', ['mmdet', 'mmseg', 'mmpretrain'])
def test_name_does_not_collide_with_the_libraries(library):
    """The libraries' registries resolve the name to this class, so none of them defines a module of the same name."""
    pytest.importorskip(library)
    registry = __import__(f'{library}.registry', fromlist=['MODELS']).MODELS
    __import__(f'{library}.models')
    assert registry.get('SimpleFeaturePyramid') is SimpleFeaturePyramid
