"""The operations of the depthwise convolution, for PyTorch's FLOP counter. Its bias and SiLU are not counted."""

from collections.abc import Sequence
from math import prod

import torch

from ..flop_counter import register_flop_formula
from . import conv_silu  # noqa: F401  (defines the operators)


def conv_flops(x: Sequence[int], weight: Sequence[int], per_mac: int = 1) -> int:
    """Operations of one forward convolution.

    Args:
        x, weight: shapes as in the operator, (B, H, W, E) and (K, E, ...).
        per_mac: operations per multiply-add.
    """
    return per_mac * prod(x[:-1]) * prod(weight)


@register_flop_formula(torch.ops.mmvmamba.conv_silu)
def _count_conv(x, weight, *_, out_shape=None, **__) -> int:
    return conv_flops(x, weight, per_mac=2)


@register_flop_formula(torch.ops.mmvmamba.conv_silu_backward)
def _count_conv_backward(grad, x, weight, *_, out_shape=None, **__) -> int:
    """The convolution again, and its two gradients."""
    return 3 * conv_flops(x, weight, per_mac=2)
