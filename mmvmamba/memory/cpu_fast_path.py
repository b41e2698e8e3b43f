"""Faster linear layers and chunked evaluation on a CPU while autograd is not recording.

This covers inference and, in training, the code of the autograd functions in `linear_layers.py` and `scan.py`. Chunks
keep intermediate maps in cache: in the best case, an MLP takes half of the time, and its hidden layer is stored for one
chunk only.
"""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
import torch.nn.functional as F
from torch import Tensor

from ..ops.setting import Setting
from ..ops.tracing import in_torch_func_transform

CHUNK_TOKENS = 2048
ONEDNN_MIN_MACS = 2**24  # the overhead of a oneDNN call is 10 us larger than that of a BLAS call

# The linear layer that torch.compile also uses; None if this build of PyTorch does not have it.
_onednn_linear = getattr(torch.ops.mkldnn, '_linear_pointwise', None) if torch.backends.mkldnn.is_available() else None


_enabled = Setting('CPU fast path', os.environ.get('MMVMAMBA_CPU_FASTPATH') != '0')


def use_cpu_fast_path(enabled: bool) -> AbstractContextManager:
    """Context manager that enables or disables the fast path of a CPU.

    The environment variable `MMVMAMBA_CPU_FASTPATH=0` disables it for the process.
    """
    return _enabled.override(enabled)


def is_on_cpu_fast_path(x: Tensor) -> bool:
    """Whether x is on a CPU and is not being recorded, traced, compiled or transformed."""
    return (
        x.is_cpu
        and not torch.is_grad_enabled()
        and not (torch.compiler.is_compiling() or torch.jit.is_tracing())
        and not in_torch_func_transform()  # oneDNN's operator does not support the transforms of torch.func
        and _enabled.get()
    )


def apply_in_chunks(fn: Callable[..., Tensor], *maps: Tensor) -> Tensor:
    """Computes `fn(*maps)` in chunks. `fn` must process each position (all dimensions but the last) independently."""
    positions = maps[0].shape[:-1]
    if not is_on_cpu_fast_path(maps[0]) or positions.numel() <= CHUNK_TOKENS:
        return fn(*maps)
    chunks = zip(*(x.flatten(0, -2).split(CHUNK_TOKENS) for x in maps))
    return torch.cat([fn(*chunk) for chunk in chunks]).unflatten(0, positions)


def fast_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, gelu: bool = False) -> Tensor:
    """A linear layer with an optional GELU: (..., C) -> (..., C'); weight is (C', C) with any strides.

    In float32, oneDNN fuses bias and GELU at no extra cost, and its product is faster than PyTorch's MKL call.
    """
    if _can_use_onednn(x, weight, bias) and (gelu or x.numel() * len(weight) >= ONEDNN_MIN_MACS):
        activation_args = ('gelu', [], 'none') if gelu else ('none', [], '')  # name, scalars, kind of approximation
        return _onednn_linear(x, weight, bias, *activation_args)  # pyright: ignore[reportOptionalCall]
    x = F.linear(x, weight, bias)
    return F.gelu(x) if gelu else x


def fast_linear_per_map(x: Tensor, weights: Tensor) -> Tensor:
    """K linear layers, each applied to its own map: (B, K, L, C) with weights (K, C', C) -> (B, K, L, C')."""
    if _can_use_onednn(x, weights) and x[:, 0].numel() * weights.shape[1] >= ONEDNN_MIN_MACS:
        return torch.stack([fast_linear(t, weight) for t, weight in zip(x.unbind(1), weights)], 1)
    return x @ weights.mT


def _can_use_onednn(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> bool:
    """Whether oneDNN's operator supports these tensors here.

    Call this before any size is compared: while a compiler traces, it returns False, and a comparison would add a guard
    that makes the compiler run again for other sizes.
    """
    return (
        _onednn_linear is not None
        and is_on_cpu_fast_path(x)
        and torch.backends.mkldnn.enabled
        and x.dtype == weight.dtype == torch.float32
        and (bias is None or bias.dtype == torch.float32)
        and not torch.is_autocast_enabled('cpu')  # autocast does not see this operator
    )
