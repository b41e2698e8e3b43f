"""Deferred values: a linear layer or a scan computes its input itself, and recomputes it in the backward pass.

The layer then saves the tensors that its input is computed from, instead of the input.
"""

from collections.abc import Callable
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor

from ..ops.tracing import in_torch_func_transform


class Deferred(NamedTuple):
    """The value ``fn(*maps, *parameters)``, not computed yet.

    Attributes:
        fn: computes the value. For `linear`, each position (all dimensions but the last) of the value must depend only
            on the same position of the maps, so that the value can be computed in chunks. `project_and_scan` computes
            the value as a whole and has no such requirement.
        maps: tensors with the same positions as the value; training saves them.
        parameters: further arguments of `fn`, tensors or None.
    """

    fn: Callable[..., Tensor]
    maps: tuple[Tensor, ...]
    parameters: tuple[Tensor | None, ...] = ()

    def tensor(self) -> Tensor:
        return self.fn(*self.maps, *self.parameters)

    def slice(self, first: int, last: int) -> Tensor:
        """Positions `first` to `last` (exclusive) of the value, if its maps are sequences (B, L, C)."""
        return self.fn(*(t[:, first:last] for t in self.maps), *self.parameters)


def defer(
    fn: Callable[..., Tensor], *inputs: Tensor | Deferred, parameters: tuple[Tensor | None, ...] = ()
) -> Deferred:
    """Defers ``fn(*inputs, *parameters)``.

    Inputs that are deferred themselves, or were made by `compute_recomputable`, are recomputed together with the value.
    """
    # The source of an input is the Deferred that it is recomputed from, or None for a tensor that is saved. `as_tensor`
    # below is for the type checker: an input without a source is a tensor.
    sources = [deferred_or_none(x) for x in inputs]
    if not any(sources):
        return Deferred(fn, tuple(map(as_tensor, inputs)), parameters)
    parts = [source or Deferred(_identity, (as_tensor(x),)) for source, x in zip(sources, inputs)]
    maps = tuple(t for part in parts for t in part.maps)

    def compute_parts_and_fn(*tensors: Tensor | None) -> Tensor:
        # The tensors are the maps of all parts, the parameters of all parts, and those of fn. Each part takes its own
        # from the iterators; what remains at the end are the parameters of fn.
        remaining_maps, remaining_parameters = iter(tensors[: len(maps)]), iter(tensors[len(maps) :])
        values = [
            part.fn(*islice(remaining_maps, len(part.maps)), *islice(remaining_parameters, len(part.parameters)))
            for part in parts
        ]
        return fn(*values, *remaining_parameters)

    return Deferred(compute_parts_and_fn, maps, (*(t for part in parts for t in part.parameters), *parameters))


def compute_recomputable(fn: Callable[..., Tensor], x: Tensor, *parameters: Tensor | None) -> Tensor:
    """Returns ``fn(x, *parameters)``, an ordinary tensor that `linear` recomputes from x instead of saving it."""
    y = fn(x, *parameters)
    if autograd_is_recording() and y.requires_grad:
        source = Deferred(fn, (x,), parameters)
        y._recomputed_from = (source, y._version)  # pyright: ignore[reportAttributeAccessIssue]
    return y


def deferred_or_none(x: Tensor | Deferred) -> Deferred | None:
    """Returns x as a deferred value if it is one or was made by `compute_recomputable`, else None: x must be saved.

    A tensor that was modified in place, has hooks or retains its gradient must be saved, too.
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
    """Whether autograd records operations in eager mode.

    While this is false, the functions of this package run as ordinary operations, without recomputation: compilers
    decide themselves what to recompute, and the transforms of `torch.func` do not support the autograd functions.
    """
    return (
        torch.is_grad_enabled()
        and not (torch.compiler.is_compiling() or torch.jit.is_tracing())
        and not in_torch_func_transform()
    )


def _identity(x: Tensor) -> Tensor:
    return x
