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
from .traversal import is_reversed, one_map_per_traversal, to_map, to_sequence


def linear_scan(a: Tensor, b: Tensor, reverse: bool = False) -> Tensor:
    """h_t = a_t h_{t-1} + b_t along dim 1 of (batch, L, d, n) tensors; with `reverse`, h_t = a_t h_{t+1} + b_t."""
    length, direction = b.shape[1], -1 if reverse else 1
    chunk_length = math.isqrt(length - 1) + 1  # the square root, rounded up
    chunks = math.ceil(length / chunk_length)
    if chunks * chunk_length > length:
        a, b = (F.pad(t, (0, 0, 0, 0, 0, chunks * chunk_length - length)) for t in (a, b))
    # a_steps[i] is step i of every chunk, (batch, chunks, d, n), in the order of the scan
    a_steps, b_steps = (t.unflatten(1, (chunks, chunk_length)).unbind(2)[::direction] for t in (a, b))

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
    # back to the order of the sequence
    states, decays_from_start = torch.stack(hs[::direction], 2), torch.stack(decays[::direction], 2)
    entering = torch.stack(carries[::direction], 1).unsqueeze(2)
    return torch.addcmul(states, decays_from_start, entering).flatten(1, 2)[:, :length]


def selective_scan_2d(inputs: ScanInputs, out_dtype: torch.dtype | None = None) -> Tensor:
    """Computes y (b, H, W, d) in float32, or in float64 if any input is float64. `out_dtype` converts the result."""
    x, dt, A, B, C, D, dt_bias, dt_weight, traversal_codes, dt_softplus = inputs.in_state_dtype()
    height, width = x.shape[-3:-1]
    x, total = one_map_per_traversal(x, traversal_codes), x.new_zeros(())
    for k, code in enumerate(traversal_codes):
        u, dt_k, b, c = (to_sequence(t, code) for t in (x[:, k], dt[:, k], B[:, k], C[:, k]))
        z = _delta_before_softplus(dt_k, dt_weight, dt_bias, k)
        delta = F.softplus(z) if dt_softplus else z
        h = linear_scan(torch.exp(delta[..., None] * A[k]), (delta * u)[..., None] * b[:, :, None], is_reversed(code))
        y = (h * c[:, :, None]).sum(-1)
        if D is not None:
            y = y + D[k] * u
        total = total + to_map(y, code, height, width)
    return total.to(out_dtype or total.dtype)


def selective_scan_2d_backward(grad_y: Tensor, inputs: ScanInputs) -> tuple[Tensor | None, ...]:
    """The gradients of the tensors of `inputs`, with their shapes and dtypes, and None for missing tensors.

    The gradient g_t of h_t follows the same recurrence in the opposite direction: g_t = a_{t+1} g_{t+1} + C_t dy_t.
    """
    x, dt, A, B, C, D, dt_bias, dt_weight, traversal_codes, dt_softplus = inputs.in_state_dtype()
    height, width = x.shape[-3:-1]
    grad_y = grad_y.to(x.dtype)
    zeros = partial(torch.zeros_like, memory_format=torch.contiguous_format)
    dx, ddt, dA, dB, dC = (zeros(t) for t in (x, dt, A, B, C))
    dD, dbias, dweight = (t if t is None else zeros(t) for t in (D, dt_bias, dt_weight))
    x = one_map_per_traversal(x, traversal_codes)
    dx_per_traversal = one_map_per_traversal(
        dx, traversal_codes
    )  # a view: gradients of a shared x are added to the same map
    for k, code in enumerate(traversal_codes):
        reverse = is_reversed(code)
        u, dt_k, b, c, dy = (to_sequence(t, code) for t in (x[:, k], dt[:, k], B[:, k], C[:, k], grad_y))
        z = _delta_before_softplus(dt_k, dt_weight, dt_bias, k)
        delta = F.softplus(z) if dt_softplus else z
        a = torch.exp(delta[..., None] * A[k])
        h = linear_scan(a, (delta * u)[..., None] * b[:, :, None], reverse)
        # The gradient runs in the opposite direction: its previous step is step t + 1 of the scan.
        g = linear_scan(_previous_step(a, not reverse), dy[..., None] * c[:, :, None], not reverse)

        # gradients of the products delta * u and delta * A
        grad_delta_u = (g * b[:, :, None]).sum(-1)
        grad_delta_A = g * a * _previous_step(h, reverse)
        du = grad_delta_u * delta if D is None else grad_delta_u * delta + D[k] * dy
        dz = grad_delta_u * u + (grad_delta_A * A[k]).sum(-1)
        if dt_softplus:
            dz = dz * torch.sigmoid(z)
        dx_per_traversal[:, k].add_(to_map(du, code, height, width))
        dA[k] = (grad_delta_A * delta[..., None]).sum((0, 1))
        dB[:, k] = to_map((g * (delta * u)[..., None]).sum(2), code, height, width)
        dC[:, k] = to_map((h * dy[..., None]).sum(2), code, height, width)
        if dD is not None:
            dD[k] = (u * dy).sum((0, 1))
        if dbias is not None:
            dbias[k] = dz.sum((0, 1))
        if dweight is not None and dt_weight is not None:  # both or neither
            dweight[k] = dz.flatten(0, 1).T @ dt_k.flatten(0, 1)
            dz = dz @ dt_weight[k]
        ddt[:, k] = to_map(dz, code, height, width)
    grads = (dx, ddt, dA, dB, dC, dD, dbias, dweight)
    return tuple(None if g is None or t is None else g.to(t.dtype) for g, t in zip(grads, inputs.tensors))


def _delta_before_softplus(dt: Tensor, dt_weight: Tensor | None, dt_bias: Tensor | None, k: int) -> Tensor:
    """(b, L, d or r) -> (b, L, d), before softplus."""
    if dt_weight is not None:
        dt = dt @ dt_weight[k].T
    return dt if dt_bias is None else dt + dt_bias[k]


def _previous_step(t: Tensor, reverse: bool) -> Tensor:
    """The values at the previous step of a scan along dim 1; 0 at its first step."""
    return F.pad(t[:, 1:], (0, 0, 0, 0, 0, 1)) if reverse else F.pad(t[:, :-1], (0, 0, 0, 0, 1, 0))
