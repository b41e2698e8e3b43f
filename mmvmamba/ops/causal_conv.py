"""What a Mamba block does before the scan: projection, causal depthwise convolution and SiLU, from either end."""

import logging
from collections.abc import Sequence
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from .pieces import PIECE, infers_on_cpu


def project_conv_silu(
    x: Tensor, in_weight: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor | None], reverse: Sequence[bool]
) -> Tensor:
    """SiLU of K causal convolutions of one projected sequence: (B, L, C) -> (B, K, L, E).

    Args:
        x: (B, L, C).
        in_weight: (E, C).
        weights: K of (E, 1, taps); each channel has its own.
        biases: K of (E,), or None.
        reverse: K times whether a position sees those after it instead of those before it.
    """
    branches = list(zip(weights, biases, reverse))
    if infers_on_cpu(x):
        return _infer(x, in_weight, branches)
    x = F.linear(x, in_weight)
    if conv_silu := _cuda_kernel(x):
        return torch.stack([_with_kernel(conv_silu, x, *branch) for branch in branches], 1)
    return F.silu(torch.stack([causal_conv(x, *branch) for branch in branches], 1))


def _infer(x: Tensor, in_weight: Tensor, branches: list[tuple[Tensor, Tensor | None, bool]]) -> Tensor:
    """Piece by piece, each with the neighbours that its convolutions see: only the result has the full length."""
    length, halo = x.shape[1], branches[0][0].shape[2] - 1
    dtype = F.linear(x[:, :0], in_weight).dtype  # autocast may have chosen it
    out = x.new_empty(len(x), len(branches), length, len(in_weight), dtype=dtype)
    for begin in range(0, length, PIECE):  # of every sample: shorter pieces would mostly be neighbours
        end = min(begin + PIECE, length)
        first, last = max(begin - halo, 0), min(end + halo, length)
        piece = F.linear(x[:, first:last], in_weight)
        for k, branch in enumerate(branches):
            convolved = causal_conv(piece, *branch)[:, begin - first : end - first]
            torch.ops.aten.silu.out(convolved, out=out[:, k, begin:end])
    return out


def causal_conv(x: Tensor, weight: Tensor, bias: Tensor | None, reverse: bool) -> Tensor:
    """Each position sees itself and the `taps - 1` before it (after it, with `reverse`). (B, L, E) -> (B, L, E).

    As a 2-D convolution of a channels-last map of height 1: PyTorch's 1-D convolution needs channels first, and is
    several times slower on a CPU.
    """
    others = weight.shape[2] - 1
    weight = weight.flip(2) if reverse else weight
    x = x.transpose(1, 2).unsqueeze(2)  # (B, E, 1, L)
    x = F.conv2d(x, weight.unsqueeze(2), bias, padding=(0, others), groups=len(weight))
    x = x[..., others:] if reverse else x[..., : x.shape[3] - others]
    return x.squeeze(2).transpose(1, 2)


def _with_kernel(conv_silu, x: Tensor, weight: Tensor, bias: Tensor | None, reverse: bool) -> Tensor:
    """The kernel only looks back: to look ahead, shift the sequence by as many positions as are looked at."""
    others = weight.shape[2] - 1 if reverse else 0
    weight = weight.flip(2) if reverse else weight
    x = F.pad(x, (0, 0, 0, others)) if reverse else x
    y = conv_silu(x.transpose(1, 2), weight.squeeze(1), bias, activation='silu')
    return y.transpose(1, 2)[:, others:]


def _cuda_kernel(x: Tensor):
    """`causal_conv1d_fn` of the package causal_conv1d, where that is installed and takes such an x, else None."""
    traced = torch.compiler.is_compiling() or torch.jit.is_tracing()
    # its gradient of the weight is a sum in any order
    if not x.is_cuda or traced or torch.are_deterministic_algorithms_enabled():
        return None
    return None if x.dtype == torch.float64 or x.shape[2] % 8 else _import_kernel()


@cache
def _import_kernel():
    try:
        from causal_conv1d import causal_conv1d_fn
    except ModuleNotFoundError:
        return None
    except (ImportError, OSError) as error:
        logging.getLogger('mmvmamba').warning(
            f'causal_conv1d is installed but does not load ({error}), so Vim convolves with PyTorch: reinstall it for '
            f'PyTorch {torch.__version__}, or remove it.'
        )
        return None
    return causal_conv1d_fn
