"""The selective scan in plain PyTorch: for any device and floating-point dtype, and traceable.

A sequence of L steps is divided into about sqrt(L) chunks. First, all chunks are scanned in parallel. Then a scan over
the last states of the chunks computes the state that enters each chunk. Finally, this state is decayed and added to the
steps of the chunk. This takes about 2 sqrt(L) vectorised steps instead of L. The decays are only multiplied, never
divided, so strong decays do not cause overflow.
"""

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from .scan_inputs import ScanInputs
from .traversal import is_reversed, map_of_each, to_map, to_sequence


def linear_scan(a: Tensor, b: Tensor, reverse: bool = False) -> Tensor:
    """h_t = a_t h_{t-1} + b_t along dim 1 of (batch, L, d, n) tensors; with `reverse`, h_t = a_t h_{t+1} + b_t."""
    length, direction = b.shape[1], -1 if reverse else 1
    steps = math.isqrt(length - 1) + 1
    chunks = -(-length // steps)
    if chunks * steps > length:
        a, b = (F.pad(t, (0, 0, 0, 0, 0, chunks * steps - length)) for t in (a, b))
    a_steps, b_steps = (t.unflatten(1, (chunks, steps)).unbind(2)[::direction] for t in (a, b))

    h, decay = b_steps[0], a_steps[0]
    hs, decays = [h], [decay]
    for a_t, b_t in zip(a_steps[1:], b_steps[1:]):  # one step of all chunks at once
        h, decay = torch.addcmul(b_t, a_t, h), a_t * decay
        hs.append(h)
        decays.append(decay)
    carry, carries = torch.zeros_like(h[:, 0]), []  # the state that enters each chunk
    for chunk in range(chunks)[::direction]:
        carries.append(carry)
        carry = torch.addcmul(h[:, chunk], decay[:, chunk], carry)
    hs, decays, carries = (torch.stack(t[::direction], dim) for t, dim in ((hs, 2), (decays, 2), (carries, 1)))
    return torch.addcmul(hs, decays, carries.unsqueeze(2)).flatten(1, 2)[:, :length]


def selective_scan_2d(inputs: ScanInputs, out_dtype: torch.dtype | None = None) -> Tensor:
    """Computes y (b, H, W, d) in float32, or in float64 if any input is float64. `out_dtype` converts the result."""
    x, dt, A, B, C, D, dt_bias, dt_weight, codes, dt_softplus = inputs.in_state_dtype()
    height, width = x.shape[-3:-1]
    x, total = map_of_each(x, codes), x.new_zeros(())
    for k, code in enumerate(codes):
        u, dt_k, b, c = (to_sequence(t, code) for t in (x[:, k], dt[:, k], B[:, k], C[:, k]))
        z = _time_step(dt_k, dt_weight, dt_bias, k)
        delta = F.softplus(z) if dt_softplus else z
        h = linear_scan(torch.exp(delta[..., None] * A[k]), (delta * u)[..., None] * b[:, :, None], is_reversed(code))
        y = (h * c[:, :, None]).sum(-1)
        if D is not None:
            y = y + D[k] * u
        total = total + to_map(y, code, height, width)
    return total.to(out_dtype or total.dtype)


def selective_scan_2d_backward(grad_y: Tensor, inputs: ScanInputs) -> tuple[Tensor | None, ...]:
    """The gradients of the tensors of `inputs`, with their shapes and dtypes, and None for missing tensors.

    The adjoint of the recurrence is the same recurrence in the opposite direction: g_t = a_{t+1} g_{t+1} + C_t dy_t.
    """
    x, dt, A, B, C, D, dt_bias, dt_weight, codes, dt_softplus = inputs.in_state_dtype()
    height, width = x.shape[-3:-1]
    grad_y = grad_y.to(x.dtype)
    zeros = partial(torch.zeros_like, memory_format=torch.contiguous_format)
    dx, ddt, dA, dB, dC = (zeros(t) for t in (x, dt, A, B, C))
    dD, dbias, dweight = (t if t is None else zeros(t) for t in (D, dt_bias, dt_weight))
    x, dx_of_each = map_of_each(x, codes), map_of_each(dx, codes)
    for k, code in enumerate(codes):
        u, dt_k, b, c, dy = (to_sequence(t, code) for t in (x[:, k], dt[:, k], B[:, k], C[:, k], grad_y))
        z = _time_step(dt_k, dt_weight, dt_bias, k)
        delta = F.softplus(z) if dt_softplus else z
        a = torch.exp(delta[..., None] * A[k])
        h = linear_scan(a, (delta * u)[..., None] * b[:, :, None], is_reversed(code))
        g = linear_scan(_shift(a, not is_reversed(code)), dy[..., None] * c[:, :, None], not is_reversed(code))

        gb = (g * b[:, :, None]).sum(-1)
        ga = g * a * _shift(h, is_reversed(code))
        du = gb * delta if D is None else gb * delta + D[k] * dy
        dz = gb * u + (ga * A[k]).sum(-1)
        if dt_softplus:
            dz = dz * torch.sigmoid(z)
        dx_of_each[:, k].add_(to_map(du, code, height, width))
        dA[k] = (ga * delta[..., None]).sum((0, 1))
        dB[:, k] = to_map((g * (delta * u)[..., None]).sum(2), code, height, width)
        dC[:, k] = to_map((h * dy[..., None]).sum(2), code, height, width)
        if dD is not None:
            dD[k] = (u * dy).sum((0, 1))
        if dbias is not None:
            dbias[k] = dz.sum((0, 1))
        if dweight is not None and dt_weight is not None:
            dweight[k] = dz.flatten(0, 1).T @ dt_k.flatten(0, 1)
            dz = dz @ dt_weight[k]
        ddt[:, k] = to_map(dz, code, height, width)
    grads = (dx, ddt, dA, dB, dC, dD, dbias, dweight)
    return tuple(None if g is None or t is None else g.to(t.dtype) for g, t in zip(grads, inputs.tensors))


def _time_step(dt: Tensor, dt_weight: Tensor | None, dt_bias: Tensor | None, k: int) -> Tensor:
    """(b, L, d or r) -> (b, L, d), before softplus."""
    if dt_weight is not None:
        dt = dt @ dt_weight[k].T
    return dt if dt_bias is None else dt + dt_bias[k]


def _shift(t: Tensor, reverse: bool) -> Tensor:
    """The values of the previous step along dim 1, or of the next step with `reverse`. The missing value is zero."""
    return F.pad(t[:, 1:], (0, 0, 0, 0, 0, 1)) if reverse else F.pad(t[:, :-1], (0, 0, 0, 0, 1, 0))
