"""Linear layers together with what stands before them: of such a unit, training keeps the input alone.

A layer that is more than its weights, and every layer that somebody traces, is called as it stands.
"""

from collections.abc import Callable
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from ..ops.recompute import keeps_for_backward, linear_of
from .layers import LayerNorm, RMSNorm, layer_norm, rms_norm
from .plain import are_plain


def normed_linear(norm: nn.Module | None, linear: nn.Module, x: Tensor) -> Tensor:
    """`linear(norm(x))`; None is no norm. (..., C) -> (..., C')."""
    if norm is None:
        return linear(x)
    if keeps_for_backward() and (function := as_function(norm)) and _is_plain(linear):
        return linear_of(function[0], (x,), function[1], linear.weight, linear.bias)
    return linear(norm(x))


def gelu_linear(linear: nn.Module, x: Tensor) -> Tensor:
    """`linear(gelu(x))`. (..., C) -> (..., C')."""
    if keeps_for_backward() and _is_plain(linear):
        return linear_of(F.gelu, (x,), (), linear.weight, linear.bias)
    return linear(F.gelu(x))


def normed_gated_linear(norm: nn.Module, linear: nn.Module, x: Tensor, z: Tensor | None) -> Tensor:
    """`linear(norm(x) * silu(z))`; None is no gate. (..., C), (..., C) -> (..., C')."""
    if z is None:
        return normed_linear(norm, linear, x)

    def gated(x: Tensor, z: Tensor, *parameters: Tensor) -> Tensor:
        return function[0](x, *parameters) * F.silu(z)

    if keeps_for_backward() and (function := as_function(norm)) and _is_plain(linear):
        return linear_of(gated, (x, z), function[1], linear.weight, linear.bias)
    return linear(norm(x) * F.silu(z))


def as_function(norm: nn.Module | None) -> tuple[Callable[..., Tensor], tuple[Tensor, ...]] | None:
    """A function and the weights to call it with, `function(x, *weights)`, or None if the norm must be called."""
    if are_plain((norm,), LayerNorm, bias=True) or are_plain((norm,), nn.LayerNorm, bias=True):
        return partial(layer_norm, eps=norm.eps), (norm.weight, norm.bias)
    if are_plain((norm,), RMSNorm, bias=False):
        return partial(rms_norm, eps=norm.eps), (norm.weight,)
    return None


def _is_plain(linear: nn.Module) -> bool:
    return are_plain((linear,), nn.Linear, bias=True) or are_plain((linear,), nn.Linear, bias=False)
