"""Maps and sequences with their channels first: each operator and layer names the layout that it takes."""

import re

import pytest
import torch

from mmvmamba.models.bimamba import BiMamba
from mmvmamba.models.ss2d import SS2D
from mmvmamba.models.vim import VimBlock
from mmvmamba.models.vmamba import VSSBlock
from mmvmamba.ops import conv_silu_1d, conv_silu_2d, selective_scan_2d

from ..test_ops.cases import scan_inputs


def scan(per_traversal):
    def scan(x):
        inputs = scan_inputs(2, 5, 4, 6, 2, K=3, rank=2, per_traversal=per_traversal, dtype=torch.float32)
        return selective_scan_2d(**inputs | dict(x=x), traversals=('row', 'column', 'row'))

    return scan


def vim_block(x):
    return VimBlock(6, BiMamba(6, d_state=2), drop_path=0.0)(x, False)[1]


# What is called, with a good shape, and the sentence about one with the channels first.
CASES = {
    'SS2D': (SS2D(6), (2, 5, 4, 6), 'SS2D takes (B, H, W, C) with C=6 channels, not (2, 6, 5, 4); x has'),
    'SS2D, gate': (SS2D(6, gate=True), (2, 5, 4, 6), 'SS2D takes (B, H, W, C) with C=6 channels, not (2, 6, 5, 4); x'),
    'VSSBlock': (VSSBlock(6, SS2D(6), 4.0, 0.0), (2, 5, 4, 6), 'VSSBlock takes (B, H, W, C) with C=6 channels, not (2'),
    'BiMamba': (BiMamba(6), (2, 5, 6), 'BiMamba takes (B, L, C) with C=6 channels, not (2, 6, 5); x has'),
    'VimBlock': (vim_block, (2, 5, 6), 'VimBlock takes (B, L, C) with C=6 channels, not (2, 6, 5); x has'),
    'scan': (scan(False), (2, 5, 4, 6), 'with d = 6, as in A (3, 6, 2), not (2, 6, 5, 4); x has'),
    'scan of maps': (scan(True), (2, 3, 5, 4, 6), ', not (2, 3, 6, 5, 4); x has'),
    'conv_silu_2d': (
        lambda x: conv_silu_2d(x, torch.ones(6, 1, 3, 3)),
        (2, 5, 4, 6),
        'x must be (B, H, W, E) with the channels of weight (6, 1, 3, 3), not (2, 6, 5, 4); x has',
    ),
    'conv_silu_1d': (
        lambda x: conv_silu_1d(x, torch.ones(2, 6, 4), None, (True, False)),
        (2, 5, 6),
        'x must be (B, L, E) with the channels of weights (2, 6, 4), not (2, 6, 5); x has',
    ),
}


@pytest.mark.parametrize('case', CASES)
def test_channels_first_is_refused_and_the_hint_is_right(case):
    function, shape, message = CASES[case]
    x = torch.randn(shape)
    expected = function(x)
    axis = 2 if len(shape) == 5 else 1
    with pytest.raises(ValueError, match=re.escape(message)) as refusal:
        function(x.movedim(-1, axis))
    hint = re.search(r'x\.movedim\((\d), -1\) has them last', str(refusal.value))
    assert function(x.movedim(-1, axis).movedim(int(hint[1]), -1)).shape == expected.shape


@pytest.mark.parametrize(
    'layer, shape',
    [(SS2D(6), (2, 5, 6)), (SS2D(6), (2, 5, 4, 7)), (BiMamba(6), (2, 5, 4, 6)), (BiMamba(6), (2, 6, 5, 4))],
)
def test_other_shapes_are_refused_without_a_hint(layer, shape):
    with pytest.raises(ValueError, match=r'takes \(B, .*, C\) with C=6 channels, not \(2, [^;]*\.$'):
        layer(torch.randn(shape))


def test_equal_sizes_are_no_reason_to_refuse():
    assert SS2D(6)(torch.randn(1, 6, 6, 6)).shape == (1, 6, 6, 6)
    assert BiMamba(6)(torch.randn(1, 6, 6)).shape == (1, 6, 6)
