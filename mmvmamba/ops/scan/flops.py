"""The operations of a scan, for PyTorch's FLOP counter.

A step of one channel and state counts 9, and the D skip 1. This is the parallel-scan convention of
state-spaces/mamba#110, which the published VMamba tables follow. A low-rank step size counts as the matrix product that
it is.
"""

from collections.abc import Sequence
from math import prod

import torch

from ..flop_counter import register_flop_formula
from . import scan_2d  # noqa: F401  (defines the operators)


def scan_flops(
    x: Sequence[int], dt: Sequence[int], A: Sequence[int], has_D: bool, is_low_rank: bool, per_mac: int = 1
) -> int:
    """Operations of one forward scan.

    Args:
        x, dt, A: shapes as in `selective_scan_2d`.
        has_D: whether there is a D skip.
        is_low_rank: whether dt is low-rank.
        per_mac: operations per multiply-add of the matrix product.
    """
    steps = prod(dt[:-1])  # batch * traversals * positions
    channels, d_state = A[1:]
    return steps * channels * (9 * d_state + has_D + per_mac * dt[-1] * is_low_rank)


@register_flop_formula(torch.ops.mmvmamba.selective_scan_2d)
def _count_forward(x, dt, A, B, C, D, dt_bias, dt_weight, *_, out_shape=None, **__) -> int:
    return scan_flops(x, dt, A, D is not None, dt_weight is not None, per_mac=2)


@register_flop_formula(torch.ops.mmvmamba.selective_scan_2d_backward)
def _count_backward(grad_y, *inputs, out_shape=None, **__) -> int:
    """Two scans (the states again, and their adjoint). A low-rank dt adds three products: one recomputes the full dt,
    two compute its gradients.
    """
    x, dt, A, _, _, D, _, dt_weight = inputs[:8]
    return scan_flops(x, dt, A, D is not None, False) * 2 + scan_flops(
        x, dt, (A[0], A[1], 0), False, dt_weight is not None, per_mac=6
    )
