"""Recomputation of values and their gradients, shared by the autograd functions of `linear_layers.py` and `scan.py`."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor

from ..ops.backend import current_backend, override_backend


def capture_context(t: Tensor) -> Callable[[], AbstractContextManager]:
    """Captures the autocast state of t's device and the scan backend.

    Returns:
        A function that returns a context manager, inside which both are as they are now.
    """
    device, backend = t.device.type, current_backend()
    if not torch.amp.is_autocast_available(device):
        return nullcontext
    dtype, enabled = torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)

    @contextmanager
    def context():
        same_backend = nullcontext() if backend == current_backend() else override_backend(backend)
        with same_backend, torch.autocast(device, dtype=dtype, enabled=enabled):
            yield

    return context


def detached_leaves(tensors: Iterable[Tensor | None], needs_grad: Iterable[bool]) -> list[Tensor | None]:
    """The tensors as leaves of a new graph; None stays None."""
    return [t if t is None else t.detach().requires_grad_(need) for t, need in zip(tensors, needs_grad)]


def gradients(out: Tensor, leaves: Sequence[Tensor | None], grad_out: Tensor | None) -> list[Tensor | None]:
    """The gradient of each leaf that requires one, else None; `grad_out` may be None if no leaf requires one."""
    wanted = [t for t in leaves if t is not None and t.requires_grad]
    found = iter(torch.autograd.grad(out, wanted, grad_out.to(out.dtype)) if wanted and grad_out is not None else ())
    return [next(found) if t is not None and t.requires_grad else None for t in leaves]


def gradients_with_graph(
    fn: Callable[..., Tensor],
    inputs: Sequence[Tensor | None],
    needs_grad: Sequence[bool],
    grad_out: Tensor,
    forward_context: Callable[[], AbstractContextManager],
) -> tuple[Tensor | None, ...]:
    """The gradients of `fn(*inputs)`, which can be differentiated again; None for inputs that do not need one."""
    views = [t if t is None else t.view_as(t) for t in inputs]  # a tensor may occur twice among the inputs
    with forward_context():
        out = fn(*views)
    wanted = [t for t, need in zip(views, needs_grad) if need and t is not None]
    found = iter(torch.autograd.grad(out, wanted, grad_out, create_graph=True))
    return tuple(next(found) if need else None for need in needs_grad)
