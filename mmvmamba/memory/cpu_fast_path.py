"""Faster linear layers and chunked evaluation on a CPU, where autograd does not record.

That is inference, and the inside of the recomputing functions in training. In chunks, intermediate maps stay in cache:
an MLP takes up to half the time, and no memory for its hidden layer.
"""

import os
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ..ops.backend import in_function_transform
from ..ops.setting import Setting

CHUNK_TOKENS = 2048
ONEDNN_MIN_MACS = 2**24  # a call of oneDNN takes 10 us more than one of the BLAS

# The linear layer that torch.compile uses, too; None where PyTorch lacks it.
_onednn_linear = getattr(torch.ops.mkldnn, '_linear_pointwise', None) if torch.backends.mkldnn.is_available() else None


class use_cpu_fast_path(Setting, default=os.environ.get('MMVMAMBA_CPU_FASTPATH') != '0'):
    """Switches the fast path of a CPU on or off: for the process (a call) or for a `with` block.

    The environment variable `MMVMAMBA_CPU_FASTPATH=0` switches it off at start.
    """

    def __init__(self, enabled: bool):
        super().__init__(enabled)


def is_on_cpu_fast_path(x: Tensor) -> bool:
    """Whether x is on a CPU and nothing records, traces, compiles or transforms what is computed from it."""
    return (
        x.device.type == 'cpu'
        and not torch.is_grad_enabled()
        and not (torch.compiler.is_compiling() or torch.jit.is_tracing())
        and not in_function_transform()  # oneDNN's layer has no rules for one
        and use_cpu_fast_path.get()
    )


def map_chunks(fn: Callable[..., Tensor], *maps: Tensor) -> Tensor:
    """`fn(*maps)` for an `fn` that treats each position (all dimensions but the last) alone."""
    positions = maps[0].shape[:-1]
    if not is_on_cpu_fast_path(maps[0]) or positions.numel() <= CHUNK_TOKENS:
        return fn(*maps)
    chunks = zip(*(x.flatten(0, -2).split(CHUNK_TOKENS) for x in maps))
    return torch.cat([fn(*chunk) for chunk in chunks]).unflatten(0, positions)


def fast_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, gelu: bool = False) -> Tensor:
    """A linear layer, followed by a GELU on request: (..., C) -> (..., C'); weight is (C', C) with any strides.

    In float32, oneDNN applies bias and GELU at no cost, and its product takes less time than PyTorch's MKL call.
    """
    if _can_use_onednn(x, weight, bias) and (gelu or x.numel() * len(weight) >= ONEDNN_MIN_MACS):
        return _onednn_linear(x, weight, bias, 'gelu' if gelu else 'none', [], 'none' if gelu else '')
    x = F.linear(x, weight, bias)
    return F.gelu(x) if gelu else x


def fast_linears(x: Tensor, weights: Tensor) -> Tensor:
    """K linear layers, each of its own map: (B, K, L, C) with weights (K, C', C) -> (B, K, L, C')."""
    if _can_use_onednn(x, weights) and x[:, 0].numel() * weights.shape[1] >= ONEDNN_MIN_MACS:
        return torch.stack([fast_linear(t, weight) for t, weight in zip(x.unbind(1), weights)], 1)
    return x @ weights.mT


def _can_use_onednn(x: Tensor, *parameters: Tensor | None) -> bool:
    """Call this before reading any size: a tracer would guard on it."""
    return (
        _onednn_linear is not None
        and is_on_cpu_fast_path(x)
        and torch.backends.mkldnn.enabled
        and all(t.dtype == torch.float32 for t in (x, *parameters) if t is not None)
        and not torch.is_autocast_enabled('cpu')  # autocast does not see this operator
    )
