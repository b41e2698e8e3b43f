"""The selective scan as the paper writes it, one step at a time: the specification that every backend is tested
against.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .traversal import is_reversed, map_of_each, to_map, to_sequence


def selective_scan_2d(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    dt_bias: Tensor | None,
    dt_weight: Tensor | None,
    codes: list[int],
    dt_softplus: bool,
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    """Shapes as in `mmvmamba.ops.selective_scan_2d`; computes in float32, or float64 if any input is; returns that by
    default.

    Source: Mamba (arXiv 2312.00752), Algorithm 2 with the discretisation exp(dt A), dt B; VMamba (arXiv 2401.10166),
    SS2D.
    """
    height, width = x.shape[-3:-1]
    inputs = (x, dt, A, B, C, D, dt_bias, dt_weight)
    is_double = any(t is not None and t.dtype == torch.float64 for t in inputs)
    x, dt, A, B, C, D, dt_bias, dt_weight = (
        t if t is None else t.to(torch.float64 if is_double else torch.float32) for t in inputs
    )
    x, total = map_of_each(x, codes), 0
    for k, code in enumerate(codes):
        u, delta, b, c = (to_sequence(t, code) for t in (x[:, k], dt[:, k], B[:, k], C[:, k]))
        if dt_weight is not None:
            delta = delta @ dt_weight[k].T
        if dt_bias is not None:
            delta = delta + dt_bias[k]
        if dt_softplus:
            delta = F.softplus(delta)
        steps = range(u.shape[1])
        h = u.new_zeros(*u[:, 0].shape, A.shape[-1])  # (b, d, n)
        y = [None] * len(steps)
        for t in reversed(steps) if is_reversed(code) else steps:
            h = torch.exp(delta[:, t, :, None] * A[k]) * h + delta[:, t, :, None] * b[:, t, None] * u[:, t, :, None]
            y[t] = (h * c[:, t, None]).sum(-1)
        y = torch.stack(y, 1)
        if D is not None:
            y = y + D[k] * u
        total = total + to_map(y, code, height, width)
    return total.to(out_dtype or total.dtype)
