"""The causal depthwise convolution of a Mamba block with its SiLU, from either end of the sequence."""

import logging
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

Branch = tuple[Tensor, Tensor | None, bool]  # weight (E, 1, taps), bias (E,) and whether a position looks ahead


def conv_silu(x: Tensor, branches: list[Branch]) -> Tensor:
    """SiLU of K causal convolutions of one sequence: (B, L, E) -> (B, K, L, E)."""
    if kernel := _cuda_kernel(x):
        return torch.stack([_with_kernel(kernel, x, *branch) for branch in branches], 1)
    return F.silu(torch.stack([causal_conv(x, *branch) for branch in branches], 1))


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


def _with_kernel(kernel, x: Tensor, weight: Tensor, bias: Tensor | None, reverse: bool) -> Tensor:
    """The kernel only looks back: to look ahead, shift the sequence by as many positions as are looked at."""
    others = weight.shape[2] - 1 if reverse else 0
    weight = weight.flip(2) if reverse else weight
    x = F.pad(x, (0, 0, 0, others)) if reverse else x
    y = kernel(x.transpose(1, 2), weight.squeeze(1), bias, activation='silu')
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
