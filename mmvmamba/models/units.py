"""Linear layers together with what stands before them: of such a unit, training keeps the input alone.

A layer that is more than its weights, and every layer that somebody traces, is called as it stands.
"""

from collections.abc import Callable
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from ..ops.cpu_fastpath import infers_on_cpu, linear
from ..ops.recompute import keeps_for_backward, linear_of
from .layers import LayerNorm, RMSNorm, layer_norm, rms_norm
from .plain import are_plain


def normed_linear(norm: nn.Module | None, layer: nn.Module, x: Tensor) -> Tensor:
    """`layer(norm(x))`; None is no norm. (..., C) -> (..., C')."""
    if norm is None:
        return _call(layer, x)
    if keeps_for_backward() and (function := as_function(norm)) and _is_plain(layer):
        return linear_of(function[0], (x,), function[1], layer.weight, layer.bias)
    return _call(layer, norm(x))


def gelu_linear(layer: nn.Module, x: Tensor) -> Tensor:
    """`layer(gelu(x))`. (..., C) -> (..., C')."""
    if keeps_for_backward() and _is_plain(layer):
        return linear_of(F.gelu, (x,), (), layer.weight, layer.bias)
    return _call(layer, F.gelu(x))


def normed_gated_linear(norm: nn.Module, layer: nn.Module, x: Tensor, z: Tensor | None) -> Tensor:
    """`layer(norm(x) * silu(z))`; None is no gate. (..., C), (..., C) -> (..., C')."""
    if z is None:
        return normed_linear(norm, layer, x)

    def gated(x: Tensor, z: Tensor, *parameters: Tensor) -> Tensor:
        return function[0](x, *parameters) * F.silu(z)

    if keeps_for_backward() and (function := as_function(norm)) and _is_plain(layer):
        return linear_of(gated, (x, z), function[1], layer.weight, layer.bias)
    return _call(layer, norm(x) * F.silu(z))


def as_function(norm: nn.Module | None) -> tuple[Callable[..., Tensor], tuple[Tensor, ...]] | None:
    """A function and the weights to call it with, `function(x, *weights)`, or None if the norm must be called."""
    if are_plain((norm,), LayerNorm, bias=True) or are_plain((norm,), nn.LayerNorm, bias=True):
        return partial(layer_norm, eps=norm.eps), (norm.weight, norm.bias)
    if are_plain((norm,), RMSNorm, bias=False):
        return partial(rms_norm, eps=norm.eps), (norm.weight,)
    return None


def _call(layer: nn.Module, x: Tensor) -> Tensor:
    return linear(x, layer.weight, layer.bias) if infers_on_cpu(x) and _is_plain(layer) else layer(x)


def _is_plain(layer: nn.Module) -> bool:
    return are_plain((layer,), nn.Linear, bias=True) or are_plain((layer,), nn.Linear, bias=False)
