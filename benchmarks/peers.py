"""Other implementations of the scan for comparison, with the arguments of `mmvmamba.ops.selective_scan_2d`."""

import torch
import torch.nn.functional as F
from torch import Tensor

from mmvmamba.ops import CROSS
from mmvmamba.ops.import_failure import import_failure, in_one_line
from mmvmamba.ops.scan.traversal import is_reversed, to_map, to_sequence, traversal_codes


def sequences(maps: Tensor, codes: list[int], dim: int) -> Tensor:
    """Arranges each map in the order of its traversal: (b, K, H, W, c) -> (b, K, L, c), or (b, K, c, L) for dim=3."""
    ordered = []
    for k, code in enumerate(codes):
        sequence = to_sequence(maps[:, k], code)
        sequence = sequence.flip(1) if is_reversed(code) else sequence
        ordered.append(sequence if dim == 2 else sequence.transpose(1, 2))
    return torch.stack(ordered, 1)


def merge(y: Tensor, codes: list[int], height: int, width: int) -> Tensor:
    """Sums sequences (b, K, L, c), each in the order of its traversal, to a map (b, H, W, c)."""
    total = y.new_zeros(())
    for k, code in enumerate(codes):
        sequence = y[:, k].flip(1) if is_reversed(code) else y[:, k]
        total = total + to_map(sequence, code, height, width)
    return total


def _arguments(x: Tensor, dt: Tensor, dt_weight: Tensor | None, codes: list[int]) -> tuple[Tensor, Tensor]:
    """Returns x expanded to one map per traversal, and dt at full width."""
    if x.dim() == 4:
        x = x.unsqueeze(1).expand(-1, len(codes), -1, -1, -1)
    return x, dt if dt_weight is None else torch.einsum('bkhwr,kdr->bkhwd', dt, dt_weight.to(dt.dtype))


def batched_loop(x, dt, A, B, C, D, dt_bias, dt_weight, *, traversals=CROSS) -> Tensor:
    """A PyTorch loop over positions that updates all traversals, channels and states at once.

    The official repository uses this algorithm if its kernel is not compiled: discretise all positions, then loop.
    """
    codes = traversal_codes(traversals)
    height, width = x.shape[-3:-1]
    x, dt = _arguments(x, dt, dt_weight, codes)
    u, delta, B, C = (sequences(t, codes, 2).float() for t in (x, dt, B, C))
    delta = F.softplus(delta + dt_bias[:, None])
    decays = torch.exp(delta[..., None] * A[:, None]).unbind(2)
    terms = ((delta * u)[..., None] * B[:, :, :, None]).unbind(2)
    h, ys = torch.zeros_like(terms[0]), []
    for decay, term, c in zip(decays, terms, C.unbind(2)):
        h = decay * h + term
        ys.append(torch.einsum('bkdn,bkn->bkd', h, c))
    y = torch.stack(ys, 2) + D[:, None] * u
    return merge(y, codes, height, width).to(x.dtype)


class _Oflex(torch.autograd.Function):
    """The official CUDA kernel and its backward: u, delta (b, K * d, L), B, C (b, K, n, L), float32 output."""

    @staticmethod
    def forward(ctx, u, delta, A, B, C, D, bias):
        import selective_scan_cuda_oflex as kernel

        y, states, *_ = kernel.fwd(u, delta, A, B, C, D, bias, True, 1, True)
        ctx.save_for_backward(u, delta, A, B, C, D, bias, states)
        return y

    @staticmethod
    def backward(ctx, grad_y):
        import selective_scan_cuda_oflex as kernel

        *inputs, states = ctx.saved_tensors
        return tuple(kernel.bwd(*inputs, grad_y.contiguous(), states, True, 1)[:7])


def oflex(x, dt, A, B, C, D, dt_bias, dt_weight, *, traversals=CROSS) -> Tensor:
    """The kernel of the official repository, with copies to and from sequences in plain PyTorch."""
    codes = traversal_codes(traversals)
    height, width = x.shape[-3:-1]
    x, dt = _arguments(x, dt, dt_weight, codes)
    u, delta, B, C = (sequences(t, codes, 3) for t in (x, dt, B, C))
    y = _Oflex.apply(u.flatten(1, 2), delta.flatten(1, 2), A.flatten(0, 1), B, C, D.flatten(), dt_bias.flatten())
    return merge(y.unflatten(1, u.shape[1:3]).transpose(2, 3), codes, height, width).to(x.dtype)


def oflex_unavailable_reason() -> str | None:
    error = import_failure('selective_scan_cuda_oflex')
    return error and f'the official kernel cannot be imported ({in_one_line(error)}).'
