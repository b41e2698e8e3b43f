"""Two units of a network that keep their inputs for the backward pass, and compute again what lies between.

A linear layer keeps what it multiplies, and a scan what it scans. Where that is a norm, a gate, an activation or a
depthwise convolution of maps that are kept anyway, it costs less to compute it again than to keep it. No scan runs
twice. Tracers, compilers and the transforms of `torch.func` see the plain composition; compilers choose themselves what
to keep. Source: the idea is that of Mamba (arXiv 2312.00752), section 3.3.2, and Vim (arXiv 2401.09417), section 3.5.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from . import cpu_fastpath
from .backend import current_backend, in_function_transform, replaces_operator, use_backend
from .cpu_fastpath import linear, linears
from .selective_scan_2d import selective_scan_2d
from .traversal import traversal_codes

Make = Callable[..., Tensor]


def linear_of(
    make: Make,
    maps: tuple[Tensor, ...],
    parameters: tuple[Tensor | None, ...],
    weight: Tensor,
    bias: Tensor | None = None,
) -> Tensor:
    """A linear layer of `make(*maps, *parameters)`, of which the maps alone are kept.

    Args:
        make: what the layer reads, (..., D); each position (all dimensions but the last) of the maps stands for itself.
        maps: (..., C), with the same positions.
        parameters: what else `make` reads.
        weight: (C', D).
        bias: (C',) or None.

    Returns:
        (..., C').
    """
    if not keeps_for_backward():
        return F.linear(make(*maps, *parameters), weight, bias)
    return _LinearOf.apply(make, len(maps), weight, bias, *maps, *parameters)


def scan_of(
    make: Make,
    inputs: tuple[Tensor | None, ...],
    x_proj_weight: Tensor,
    A: Tensor,
    D: Tensor,
    dt_bias: Tensor,
    dt_weight: Tensor,
    traversals: tuple[str, ...],
) -> Tensor:
    """The selective scan of x = `make(*inputs)`, with dt, B and C projected from x, of which the inputs alone are kept.

    Args:
        make: gives x, (b, H, W, d) or (b, K, H, W, d).
        inputs: what it reads.
        x_proj_weight: (K, r + 2n, d), from x to the low-rank dt, B and C.
        A, D, dt_bias, dt_weight, traversals: as in `selective_scan_2d`.

    Returns:
        (b, H, W, d), in `result_dtype(x)`.
    """
    parameters = (x_proj_weight, A, D, dt_bias, dt_weight)
    backend = current_backend()
    if not keeps_for_backward() or replaces_operator(backend):
        return _composed_scan(make, traversals, *parameters, *inputs)
    return _ScanOf.apply(make, traversals, backend, *parameters, *inputs)


def result_dtype(x: Tensor) -> torch.dtype:
    """Of a mixer's scan: x's, but float32 for float16, whose range a sum of K maps may leave."""
    return torch.float32 if x.dtype == torch.float16 else x.dtype


def keeps_for_backward() -> bool:
    """Whether autograd records, and nobody traces or transforms what runs."""
    return (
        torch.is_grad_enabled()
        and not (torch.compiler.is_compiling() or torch.jit.is_tracing())
        and not in_function_transform()
    )


class _LinearOf(Function):
    @staticmethod
    def forward(ctx, make, number_of_maps, weight, bias, *inputs):
        ctx.make, ctx.number_of_maps, ctx.as_then = make, number_of_maps, _as_now(weight)
        ctx.save_for_backward(weight, bias, *inputs)
        maps, parameters = inputs[:number_of_maps], inputs[number_of_maps:]

        def made_linear(*maps):
            return linear(make(*maps, *parameters), weight, bias)

        reads_more_than_it_gives = weight.shape[1] > weight.shape[0]
        return cpu_fastpath.in_pieces(made_linear, *maps) if reads_more_than_it_gives else made_linear(*maps)

    @staticmethod
    def backward(ctx, grad_out):
        saved, needs, n = ctx.saved_tensors, ctx.needs_input_grad[2:], ctx.number_of_maps
        if torch.is_grad_enabled():  # this gradient is to be differentiated itself

            def composed(weight, bias, *inputs):
                return F.linear(ctx.make(*inputs), weight, bias)

            return None, None, *_differentiable(composed, saved, needs, grad_out, ctx.as_then)

        (weight, bias, *inputs), maps = saved, saved[2 : 2 + n]
        weight_of_grad = weight.to(grad_out.dtype)
        grad_maps = [_Pieces(t) for t in maps]
        grad_weight, grad_bias, *grad_parameters = (_Sum() for _ in range(len(saved) - n))
        for grad_piece, *piece in zip(*(_pieces(t) for t in (grad_out, *maps))):
            leaves = _leaves((*piece, *inputs[n:]), needs[2:])
            with torch.enable_grad(), ctx.as_then():
                x = ctx.make(*leaves)
            if needs[0]:
                grad_weight.add(grad_piece.mT @ x.detach().to(grad_piece.dtype))
            if needs[1]:
                grad_bias.add(grad_piece.sum(0))
            of_leaves = _gradients(x, leaves, linear(grad_piece, weight_of_grad.mT) if any(needs[2:]) else None)
            for whole, part in zip((*grad_maps, *grad_parameters), of_leaves):
                whole.add(part)
        grads = [g.to(t) for g, t in zip((*grad_maps, *grad_parameters), inputs)]
        return None, None, grad_weight.to(weight), grad_bias.to(bias), *grads


class _ScanOf(Function):
    @staticmethod
    def forward(ctx, make, traversals, backend, x_proj_weight, A, D, dt_bias, dt_weight, *inputs):
        x = make(*inputs)
        projected = _project(x, x_proj_weight)
        ctx.make, ctx.traversals, ctx.backend, ctx.as_then = make, traversals, backend, _as_now(x)
        ctx.save_for_backward(projected, x_proj_weight, A, D, dt_bias, dt_weight, *inputs)
        return _scan(x, projected, A, D, dt_bias, dt_weight, traversals)

    @staticmethod
    def backward(ctx, grad_y):
        projected, *saved = ctx.saved_tensors
        needs = ctx.needs_input_grad[3:]
        if torch.is_grad_enabled():
            composed = partial(_composed_scan, ctx.make, ctx.traversals)
            return None, None, None, *_differentiable(composed, saved, needs, grad_y, ctx.as_then)

        x_proj_weight, A, D, dt_bias, dt_weight, *inputs = saved
        leaves = _leaves(inputs, needs[5:])
        with torch.enable_grad(), ctx.as_then():
            made = ctx.make(*leaves)
        x = made.detach()
        dt, B, C = _split(projected, A)
        codes = traversal_codes(ctx.traversals)
        grad_x, grad_dt, grad_A, grad_B, grad_C, *of_others = torch.ops.mmvmamba.selective_scan_2d_backward(
            grad_y, x, dt, A, B, C, D, dt_bias, dt_weight, codes, True, ctx.backend
        )
        projection = _project_backward(torch.cat([grad_dt, grad_B, grad_C], -1), x, x_proj_weight)
        of_inputs = _gradients(made, leaves, grad_x.add_(projection[0]))
        return None, None, None, projection[1], grad_A, *of_others, *of_inputs


def _composed_scan(make, traversals, x_proj_weight, A, D, dt_bias, dt_weight, *inputs) -> Tensor:
    x = make(*inputs)
    return _scan(x, _project(x, x_proj_weight), A, D, dt_bias, dt_weight, traversals)


def _scan(x: Tensor, projected: Tensor, A, D, dt_bias, dt_weight, traversals) -> Tensor:
    dt, B, C = _split(projected, A)
    return selective_scan_2d(x, dt, A, B, C, D, dt_bias, dt_weight, traversals=traversals, out_dtype=result_dtype(x))


def _split(projected: Tensor, A: Tensor) -> tuple[Tensor, ...]:
    """dt, B and C."""
    d_state = A.shape[-1]
    return projected.split((projected.shape[-1] - 2 * d_state, d_state, d_state), -1)


def _project(x: Tensor, weight: Tensor) -> Tensor:
    """(b, H, W, d) or (b, K, H, W, d), with weights (K, c, d) -> (b, K, H, W, c)."""
    if x.dim() == 4:  # of all traversals in one product
        return linear(x, weight.flatten(0, 1)).unflatten(-1, weight.shape[:2]).permute(0, 3, 1, 2, 4)
    return linears(x.flatten(2, 3), weight).unflatten(2, x.shape[2:4])


def _project_backward(grad: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of x and the weight; products in the type of the result, as autocast chose it."""
    of_grad, of_x = weight.to(grad.dtype), x.to(grad.dtype)
    if x.dim() == 4:
        grad = grad.permute(0, 2, 3, 1, 4).flatten(3)  # (b, H, W, K * c)
        grad_x = linear(grad, of_grad.flatten(0, 1).mT)
        grad_weight = (grad.flatten(0, 2).mT @ of_x.flatten(0, 2)).view_as(weight)
    else:
        grad = grad.flatten(2, 3)
        grad_x = linears(grad, of_grad.mT).view_as(x)
        grad_weight = (grad.mT @ of_x.flatten(2, 3)).sum(0)
    return grad_x.to(x.dtype), grad_weight.to(weight.dtype)


class _Pieces:
    """Of a map, one behind the other; the only one is the map."""

    def __init__(self, like: Tensor):
        self.like, self.whole, self.filled = like, None, 0

    def add(self, part: Tensor | None) -> None:
        if part is None:
            return
        if len(part) == self.like.shape[:-1].numel():
            self.whole = part.view_as(self.like)
            return
        if self.whole is None:
            self.whole = torch.empty_like(self.like, memory_format=torch.contiguous_format)
        self.whole.flatten(0, -2)[self.filled : self.filled + len(part)] = part
        self.filled += len(part)

    def to(self, like: Tensor) -> Tensor | None:
        return self.whole


class _Sum:
    """Of the parts that pieces add, in float32 at least."""

    def __init__(self):
        self.value = None

    def add(self, part: Tensor | None) -> None:
        if part is not None and self.value is None:
            self.value = part.to(torch.promote_types(part.dtype, torch.float32))
        elif part is not None:
            self.value += part

    def to(self, like: Tensor | None) -> Tensor | None:
        return None if self.value is None else self.value.to(like.dtype)


def _pieces(t: Tensor) -> Sequence[Tensor]:
    """(..., C) -> (positions, C), on a CPU as many at once as stay in cache."""
    t = t.flatten(0, -2)
    return t.split(cpu_fastpath.PIECE) if t.device.type == 'cpu' else (t,)


def _leaves(tensors: Iterable[Tensor | None], needs: Iterable[bool]) -> list[Tensor | None]:
    return [t if t is None else t.detach().requires_grad_(need) for t, need in zip(tensors, needs)]


def _gradients(out: Tensor, leaves: list[Tensor | None], grad_out: Tensor | None) -> list[Tensor | None]:
    """Of the leaves that need one; `grad_out` may be None where none does."""
    wanted = [t for t in leaves if t is not None and t.requires_grad]
    found = iter(torch.autograd.grad(out, wanted, grad_out.to(out.dtype)) if wanted else ())
    return [next(found) if t is not None and t.requires_grad else None for t in leaves]


def _differentiable(composed, inputs, needs, grad_out, as_then) -> tuple[Tensor | None, ...]:
    """The gradients of `composed(*inputs)` with their own graph."""
    views = [t if t is None else t.view_as(t) for t in inputs]  # one tensor may be here twice
    with as_then():
        out = composed(*views)
    found = iter(torch.autograd.grad(out, [t for t, n in zip(views, needs) if n], grad_out, create_graph=True))
    return tuple(next(found) if need else None for need in needs)


def _as_now(t: Tensor) -> Callable[[], AbstractContextManager]:
    """Makes contexts in which autocast and the backend are as they are now: a backward pass may run outside of both."""
    device, backend = t.device.type, current_backend()
    if not torch.amp.is_autocast_available(device):
        return nullcontext
    dtype, enabled = torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)

    @contextmanager
    def again():
        other_backend = use_backend.within(backend) if backend != current_backend() else nullcontext()
        with other_backend, torch.autocast(device, dtype=dtype, enabled=enabled):
            yield

    return again
