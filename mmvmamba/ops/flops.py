"""What a scan and the convolution before it cost, for MMEngine's and PyTorch's counters.

A step of one channel and state counts 9, and the D skip 1: the parallel-scan convention of state-spaces/mamba#110,
which the published VMamba tables follow. The low-rank time step counts like the matrix product that it is, and the
convolution like any other: its bias and SiLU do not count.
"""

from collections.abc import Sequence
from math import prod

import torch
from mmengine.analysis import complexity_analysis
from mmengine.analysis.jit_handles import get_shape

from .conv import conv_silu  # noqa: F401  (defines the operator)
from .import_failure import import_failure
from .scan import scan_2d  # noqa: F401  (defines the operator)

if import_failure('torch.utils.flop_counter') is None:
    from torch.utils.flop_counter import register_flop_formula
else:  # PyTorch imports Triton there: if that is broken, its counter cannot run

    def register_flop_formula(operator):
        return lambda formula: formula


def scan_flops(
    x: Sequence[int], dt: Sequence[int], A: Sequence[int], has_D: bool, is_low_rank: bool, per_mac: int = 1
) -> int:
    """Operations of one forward scan, for shapes as in `selective_scan_2d`; `per_mac` is what one multiply-add counts
    in the product.
    """
    steps = prod(dt[:-1])  # batch * traversals * positions
    channels, d_state = A[1:]
    return steps * channels * (9 * d_state + has_D + per_mac * dt[-1] * is_low_rank)


def _count_in_trace(inputs: list, outputs: list) -> int:
    x, dt, A, _, _, D, _, dt_weight = inputs[:8]
    return scan_flops(
        get_shape(x), get_shape(dt), get_shape(A), get_shape(D) is not None, get_shape(dt_weight) is not None
    )


# The handlers that every FlopAnalyzer starts from: with the scan among them, mmdet's and mmseg's own tools count it
# too.
complexity_analysis._DEFAULT_SUPPORTED_FLOP_OPS['mmvmamba::selective_scan_2d'] = _count_in_trace


@register_flop_formula(torch.ops.mmvmamba.selective_scan_2d)
def _count_forward(x, dt, A, B, C, D, dt_bias, dt_weight, *_, out_shape=None, **__) -> int:
    return scan_flops(x, dt, A, D is not None, dt_weight is not None, per_mac=2)


@register_flop_formula(torch.ops.mmvmamba.selective_scan_2d_backward)
def _count_backward(grad_y, *inputs, out_shape=None, **__) -> int:
    """Two scans (the states again, and their adjoint); two products for the gradients of a low-rank step, one to
    compute it again.
    """
    x, dt, A, _, _, D, _, dt_weight = inputs[:8]
    return scan_flops(x, dt, A, D is not None, False) * 2 + scan_flops(
        x, dt, (A[0], A[1], 0), False, dt_weight is not None, per_mac=6
    )


def conv_flops(x: Sequence[int], weight: Sequence[int], per_mac: int = 1) -> int:
    """Operations of one forward convolution, for shapes as in the operator: x (B, H, W, E), weight (K, E, ...)."""
    return per_mac * prod(x[:-1]) * prod(weight)


complexity_analysis._DEFAULT_SUPPORTED_FLOP_OPS['mmvmamba::conv_silu'] = lambda inputs, outputs: conv_flops(
    get_shape(inputs[0]), get_shape(inputs[1])
)


@register_flop_formula(torch.ops.mmvmamba.conv_silu)
def _count_conv(x, weight, *_, out_shape=None, **__) -> int:
    return conv_flops(x, weight, per_mac=2)


@register_flop_formula(torch.ops.mmvmamba.conv_silu_backward)
def _count_conv_backward(grad, x, weight, *_, out_shape=None, **__) -> int:
    """The convolution again, and its two gradients."""
    return 3 * conv_flops(x, weight, per_mac=2)
