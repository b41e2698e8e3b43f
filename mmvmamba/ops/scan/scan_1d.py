"""The 1-D selective scan with the arguments of mamba-ssm: the 2-D scan of a map of height 1."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..arguments import check_flag, check_tensors
from .scan_2d import selective_scan_2d


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Scans sequences, with the same results as mamba-ssm's ``selective_scan_fn``.

    Args:
        u, delta, z: (b, d, L). The output is multiplied by SiLU(z), unless z is None.
        A: (d, n), real.
        B, C: (d, n), constant in time; (b, n, L); or (b, g, n, L) for g groups of d / g channels.
        D, delta_bias: (d,) or None.
        delta_softplus: whether to apply softplus to delta + delta_bias.
        return_last_state: whether to return the state after the last step, too: (b, d, n), in float32 or float64.

    Returns:
        (b, d, L) in the dtype of u, or a tuple of it and the last state.

    Raises:
        ValueError: the shape, dtype or device of an argument is wrong. The message names the argument.
    """
    _check(u, delta, A, B, C, D, z, delta_bias)
    check_flag('delta_softplus', delta_softplus)
    check_flag('return_last_state', return_last_state)
    x, dt = u.transpose(1, 2), delta.transpose(1, 2)  # (b, L, d)
    B_by_channel = _by_channel(B, A)
    if B.dim() == 2 or C.dim() == 2:
        y = _scan_each_state(x, dt, A, B_by_channel, _by_channel(C, A), D, delta_bias, delta_softplus)
    else:
        B_g, C_g = (t.unsqueeze(1) if t.dim() == 3 else t for t in (B, C))
        groups = math.lcm(B_g.shape[1], C_g.shape[1])
        B_g, C_g = (t.repeat_interleave(groups // t.shape[1], 1).transpose(2, 3).unbind(1) for t in (B_g, C_g))
        x_g, dt_g, A_g, D_g, bias_g = (
            [None] * groups if t is None else t.chunk(groups, axis)
            for t, axis in ((x, 2), (dt, 2), (A, 0), (D, 0), (delta_bias, 0))
        )
        of_groups = zip(x_g, dt_g, A_g, B_g, C_g, D_g, bias_g)  # B and C: (b, L, n)
        y = torch.cat([_scan_row(*group, softplus=delta_softplus) for group in of_groups], -1)
    if z is not None:
        y = y * F.silu(z.transpose(1, 2).to(y.dtype))
    y = y.transpose(1, 2).to(u.dtype)
    if not return_last_state:
        return y
    return y, _last_state(x, dt, A, B_by_channel, delta_bias, delta_softplus)


def _scan_row(x, dt, A, B, C, D, bias, softplus) -> Tensor:
    """(b, L, d) -> (b, L, d) in float32 or float64. B and C are (b, L, n), A is (d, n), D and bias are (d,)."""
    dt, B, C = (t[:, None, None] for t in (dt, B, C))  # one traversal of a map of height 1
    D, bias = (t if t is None else t[None] for t in (D, bias))
    y = selective_scan_2d(
        x[:, None],
        dt,
        A[None],
        B,
        C,
        D,
        bias,
        traversals=('row',),
        dt_softplus=softplus,
        out_dtype=torch.promote_types(x.dtype, torch.float32),
    )
    return y[:, 0]


def _scan_each_state(x, dt, A, B, C, D, bias, softplus) -> Tensor:
    """The scan for B or C that differ between channels: d * n channels with one state each.

    B is multiplied into the input. C is multiplied into the sum over states.
    """
    n = A.shape[1]
    x, dt = (t.to(torch.promote_types(t.dtype, torch.float32)) for t in (x, dt))  # 16 bits would round x * B
    one = x.new_ones(*x.shape[:2], 1)
    bias = bias if bias is None else bias.repeat_interleave(n)
    y = _scan_row(
        (x[..., None] * B).flatten(2), dt.repeat_interleave(n, -1), A.reshape(-1, 1), one, one, None, bias, softplus
    )
    y = (y.unflatten(-1, A.shape) * C).sum(-1)
    return y if D is None else y + D * x


def _by_channel(t: Tensor, A: Tensor) -> Tensor:
    """B or C in any supported shape -> (b or 1, L or 1, d or 1, n)."""
    if t.dim() == 2:
        return t[None, None]
    if t.dim() == 3:
        return t.transpose(1, 2).unsqueeze(2)
    return t.permute(0, 3, 1, 2).repeat_interleave(A.shape[0] // t.shape[1], 2)


def _last_state(x, dt, A, B, bias, softplus) -> Tensor:
    """h_L = sum_t exp(A sum_{s > t} delta_s) delta_t B_t x_t, because the recurrence is linear in its input."""
    x, dt, A, B = (t.to(torch.promote_types(t.dtype, torch.float32)) for t in (x, dt, A, B))
    delta = dt if bias is None else dt + bias
    if softplus:
        delta = F.softplus(delta)
    later = F.pad(delta[:, 1:], (0, 0, 0, 1)).flip(1).cumsum(1).flip(1)  # the sum of all steps after t
    inputs = delta * x
    return torch.stack([(torch.exp(later * A[:, n]) * inputs * B[..., n]).sum(1) for n in range(A.shape[1])], -1)


def _check(u, delta, A, B, C, D, z, delta_bias) -> None:
    check_tensors('the scan', dict(u=u, delta=delta, A=A, B=B, C=C), dict(D=D, z=z, delta_bias=delta_bias))
    if u.dim() != 3 or A.dim() != 2 or A.shape[0] != u.shape[1]:
        raise ValueError(f'u must be (b, d, L) and A (d, n), not {tuple(u.shape)} and {tuple(A.shape)}.')
    (b, d, L), n = u.shape, A.shape[1]
    if 0 in (d, n, L):
        raise ValueError(
            f'u is {tuple(u.shape)} and A {tuple(A.shape)}: a scan needs at least one channel, one state and one step.'
        )
    expected = dict(delta=(b, d, L), z=(b, d, L), D=(d,), delta_bias=(d,))
    for name, tensor in dict(delta=delta, z=z, D=D, delta_bias=delta_bias).items():
        if tensor is not None and tuple(tensor.shape) != expected[name]:
            raise ValueError(f'{name} is {tuple(tensor.shape)}, but u {tuple(u.shape)} needs {expected[name]}.')
    for name, tensor in dict(B=B, C=C).items():
        groups = tensor.shape[1] if tensor.dim() == 4 else 1
        if tuple(tensor.shape) not in ((d, n), (b, n, L), (b, groups, n, L)) or groups == 0 or d % groups:
            raise ValueError(
                f'{name} is {tuple(tensor.shape)}, but u {tuple(u.shape)} and A {tuple(A.shape)} need {(d, n)}, '
                f'{(b, n, L)} or (b, g, n, L) with a number of groups g that divides d.'
            )
