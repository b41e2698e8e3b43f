"""The selective scan as published, one step at a time. The tests compare every backend with it."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .scan_inputs import ScanInputs
from .traversal import is_reversed, one_map_per_traversal, to_map, to_sequence


def selective_scan_2d(inputs: ScanInputs, out_dtype: torch.dtype | None = None) -> Tensor:
    """Computes y (b, H, W, d) in float32, or in float64 if any input is float64. `out_dtype` converts the result.

    Source: Mamba (arXiv 2312.00752), Algorithm 2 with the discretisation exp(dt A), dt B; VMamba (arXiv 2401.10166),
    SS2D.
    """
    x, dt, A, B, C, D, dt_bias, dt_weight, codes, dt_softplus = inputs.in_state_dtype()
    height, width = x.shape[-3:-1]
    x, total = one_map_per_traversal(x, codes), x.new_zeros(())
    for k, code in enumerate(codes):
        u, delta, b, c = (to_sequence(t, code) for t in (x[:, k], dt[:, k], B[:, k], C[:, k]))
        if dt_weight is not None:
            delta = delta @ dt_weight[k].T
        if dt_bias is not None:
            delta = delta + dt_bias[k]
        if dt_softplus:
            delta = F.softplus(delta)
        direction = -1 if is_reversed(code) else 1
        h = u.new_zeros(*u[:, 0].shape, A.shape[-1])  # (b, d, n)
        y = []
        for t in range(u.shape[1])[::direction]:
            h = torch.exp(delta[:, t, :, None] * A[k]) * h + delta[:, t, :, None] * b[:, t, None] * u[:, t, :, None]
            y.append((h * c[:, t, None]).sum(-1))
        y = torch.stack(y[::direction], 1)
        if D is not None:
            y = y + D[k] * u
        total = total + to_map(y, code, height, width)
    return total.to(out_dtype or total.dtype)
