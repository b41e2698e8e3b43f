"""Values that their consumer computes, and recomputes in the backward pass instead of saving them."""

from collections.abc import Callable
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor

from ..ops.tracing import in_function_transform


class Deferred(NamedTuple):
    """The value ``fn(*maps, *parameters)``, not computed yet.

    Attributes:
        fn: computes the value. Unless the consumer is `project_and_scan`, each position (all dimensions but the last)
            of the value must depend only on the same position of the maps, so that the value can be computed in chunks.
        maps: tensors with the same positions as the value; training saves them.
        parameters: further arguments of `fn`, tensors or None.
    """

    fn: Callable[..., Tensor]
    maps: tuple[Tensor, ...]
    parameters: tuple[Tensor | None, ...] = ()

    def tensor(self) -> Tensor:
        return self.fn(*self.maps, *self.parameters)


def defer(
    fn: Callable[..., Tensor], *inputs: Tensor | Deferred, parameters: tuple[Tensor | None, ...] = ()
) -> Deferred:
    """Defers ``fn(*inputs, *parameters)``; deferred and recomputable inputs are recomputed along with it."""
    parts = [as_deferred(x) or Deferred(_identity, (x,)) for x in inputs]
    maps = tuple(t for part in parts for t in part.maps)

    def composed(*tensors: Tensor | None) -> Tensor:
        of_maps, of_parameters = iter(tensors[: len(maps)]), iter(tensors[len(maps) :])
        values = [
            part.fn(*islice(of_maps, len(part.maps)), *islice(of_parameters, len(part.parameters))) for part in parts
        ]
        return fn(*values, *of_parameters)

    return Deferred(composed, maps, (*(t for part in parts for t in part.parameters), *parameters))


def recomputable(fn: Callable[..., Tensor], x: Tensor, *parameters: Tensor | None) -> Tensor:
    """Computes ``fn(x, *parameters)`` as an ordinary tensor; `linear` recomputes it from x instead of saving it."""
    y = fn(x, *parameters)
    if autograd_is_recording() and y.requires_grad:
        y._recomputed_from = Deferred(fn, (x,), parameters), y._version
    return y


def as_deferred(x: Tensor | Deferred) -> Deferred | None:
    """Returns how to recompute x, or None if x must be saved as it is.

    A tensor that was modified in place, or has hooks or `retain_grad`, is not recomputed.
    """
    if isinstance(x, Deferred):
        return x
    source, version = getattr(x, '_recomputed_from', (None, None))
    if source is None or x._version != version or x._backward_hooks or x.retains_grad:
        return None
    return source


def as_tensor(x: Tensor | Deferred) -> Tensor:
    return x.tensor() if isinstance(x, Deferred) else x


def autograd_is_recording() -> bool:
    """Whether autograd records in eager mode: not traced, not compiled, and not inside a transform of `torch.func`.

    Compilers decide what to recompute, and the transforms have no rules for the functions used here.
    """
    return (
        torch.is_grad_enabled()
        and not (torch.compiler.is_compiling() or torch.jit.is_tracing())
        and not in_function_transform()
    )


def _identity(x: Tensor) -> Tensor:
    return x
