"""The selective scan in plain PyTorch, in two levels: any device, any floating type, traceable.

A sequence of L steps is cut into about sqrt(L) chunks. All chunks are scanned side by side, then the chunk ends, then
the carried state is added back: about 2 sqrt(L) vectorised steps in place of L. Only products of decays are formed,
never quotients, so nothing overflows however strong the decay is.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .scan_inputs import ScanInputs
from .traversal import is_reversed, map_of_each, to_map, to_sequence


def linear_scan(a: Tensor, b: Tensor, reverse: bool = False) -> Tensor:
    """h_t = a_t h_{t-1} + b_t along dim 1 of (batch, L, d, n) tensors; with `reverse`, h_t = a_t h_{t+1} + b_t."""
    length = b.shape[1]
    steps = math.isqrt(length - 1) + 1
    chunks = -(-length // steps)
    if chunks * steps > length:
        a, b = (F.pad(t, (0, 0, 0, 0, 0, chunks * steps - length)) for t in (a, b))
    a_steps, b_steps = (t.unflatten(1, (chunks, steps)).unbind(2) for t in (a, b))

    inner, outer = range(steps), range(chunks)
    if reverse:
        inner, outer = range(steps - 1, -1, -1), range(chunks - 1, -1, -1)
    hs, decays = [None] * steps, [None] * steps
    h = decay = None
    for t in inner:  # one step of every chunk at once
        h = b_steps[t] if h is None else torch.addcmul(b_steps[t], a_steps[t], h)
        decay = a_steps[t] if decay is None else a_steps[t] * decay
        hs[t], decays[t] = h, decay
    carries = [None] * chunks
    carry = torch.zeros_like(h[:, 0])
    for chunk in outer:  # what enters each chunk
        carries[chunk] = carry
        carry = torch.addcmul(h[:, chunk], decay[:, chunk], carry)
    h = torch.addcmul(torch.stack(hs, 2), torch.stack(decays, 2), torch.stack(carries, 1).unsqueeze(2))
    return h.flatten(1, 2)[:, :length]


def selective_scan_2d(inputs: ScanInputs, out_dtype: torch.dtype | None = None) -> Tensor:
    """Computes y (b, H, W, d) in float32, or in float64 if any input is; the result has that dtype by default."""
    x, dt, A, B, C, D, dt_bias, dt_weight, codes, dt_softplus = inputs.in_state_dtype()
    height, width = x.shape[-3:-1]
    x, total = map_of_each(x, codes), 0
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
    """The gradients of the tensors of `inputs`, each in the shape and dtype of its input; None where that is None.

    The adjoint of the recurrence is the same recurrence in the opposite direction: g_t = a_{t+1} g_{t+1} + C_t dy_t.
    """
    wide = inputs.in_state_dtype()
    x, dt, A, B, C, D, dt_bias, dt_weight, codes, dt_softplus = wide
    height, width = x.shape[-3:-1]
    grad_y = grad_y.to(x.dtype)
    grads = [t if t is None else torch.zeros_like(t, memory_format=torch.contiguous_format) for t in wide.tensors]
    dx, ddt, dA, dB, dC, dD, dbias, dweight = grads
    x, dx = map_of_each(x, codes), map_of_each(dx, codes)
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
        dx[:, k].add_(to_map(du, code, height, width))
        dA[k] = (ga * delta[..., None]).sum((0, 1))
        dB[:, k] = to_map((g * (delta * u)[..., None]).sum(2), code, height, width)
        dC[:, k] = to_map((h * dy[..., None]).sum(2), code, height, width)
        if D is not None:
            dD[k] = (u * dy).sum((0, 1))
        if dt_bias is not None:
            dbias[k] = dz.sum((0, 1))
        if dt_weight is not None:
            dweight[k] = dz.flatten(0, 1).T @ dt_k.flatten(0, 1)
            dz = dz @ dt_weight[k]
        ddt[:, k] = to_map(dz, code, height, width)
    return tuple(g if g is None else g.to(t.dtype) for g, t in zip(grads, inputs.tensors))


def _time_step(dt: Tensor, dt_weight: Tensor | None, dt_bias: Tensor | None, k: int) -> Tensor:
    """(b, L, d or r) -> (b, L, d), before softplus."""
    if dt_weight is not None:
        dt = dt @ dt_weight[k].T
    return dt if dt_bias is None else dt + dt_bias[k]


def _shift(t: Tensor, reverse: bool) -> Tensor:
    """The value of the step before (after, with `reverse`) along dim 1; zero at the end where there is none."""
    return F.pad(t[:, 1:], (0, 0, 0, 0, 0, 1)) if reverse else F.pad(t[:, :-1], (0, 0, 0, 0, 1, 0))
