"""Linear layers whose input may be deferred: training saves the maps that the input is computed from.

A layer that cannot be computed from its weights alone (see `eligibility.py`), or a module that replaces it, is called
normally, with the computed input.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function

from . import cpu_fast_path
from .cpu_fast_path import fast_linear, is_on_cpu_fast_path, map_chunks
from .deferred import Deferred, as_deferred, as_tensor, autograd_is_recording, defer
from .eligibility import can_use_raw_weights
from .recompute import capture_context, detached_leaves, double_differentiable, gradients


def linear(layer: nn.Linear, x: Tensor | Deferred) -> Tensor:
    """``layer(x)``: (..., C) -> (..., C')."""
    if not can_use_raw_weights(nn.Linear, layer):
        return layer(as_tensor(x))
    return linear_from_weights(x, layer.weight, layer.bias)


def linear_gelu(layer: nn.Linear, x: Tensor) -> Deferred:
    """Defers ``gelu(layer(x))`` for `linear`; training saves x and ``layer(x)``, inference on a CPU only x."""
    if is_on_cpu_fast_path(x) and can_use_raw_weights(nn.Linear, layer):
        return defer(_linear_gelu, x, parameters=(layer.weight, layer.bias))
    return defer(F.gelu, linear(layer, x))


def split_linear(layer: nn.Linear, x: Tensor) -> tuple[Tensor | Deferred, Tensor | Deferred]:
    """The two halves of ``layer(x)``; training saves the first and recomputes the second from x."""
    if not can_use_raw_weights(nn.Linear, layer):
        return layer(x).chunk(2, -1)
    biases = (None, None) if layer.bias is None else layer.bias.chunk(2)
    first, second = zip(layer.weight.chunk(2), biases)
    head = defer(fast_linear, x, parameters=first) if is_on_cpu_fast_path(x) else linear_from_weights(x, *first)
    return head, defer(fast_linear, x, parameters=second)


def gate(y: Tensor, z: Tensor | Deferred) -> Deferred:
    """Defers ``y * silu(z)``, in z's dtype, for `linear`."""
    return defer(_gate, y, z)


def _gate(y: Tensor, z: Tensor) -> Tensor:
    return (y * F.silu(z)).to(z.dtype)


def _linear_gelu(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return fast_linear(x, weight, bias, gelu=True)


def linear_from_weights(x: Tensor | Deferred, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Same as `linear`, for a layer given by its weight (C', C) and its bias, (C',) or None."""
    source = as_deferred(x)
    if source is None:
        return fast_linear(as_tensor(x), weight, bias)
    if autograd_is_recording():
        return _RecomputedLinear.apply(source.fn, len(source.maps), weight, bias, *source.maps, *source.parameters)
    return map_chunks(lambda *maps: fast_linear(source.fn(*maps, *source.parameters), weight, bias), *source.maps)


class _RecomputedLinear(Function):
    """``linear(fn(*maps, *parameters), weight, bias)``; saves only its arguments."""

    @staticmethod
    def forward(ctx, fn, number_of_maps, weight, bias, *inputs):
        ctx.fn, ctx.number_of_maps, ctx.restore = fn, number_of_maps, capture_context(weight)
        ctx.save_for_backward(weight, bias, *inputs)
        maps, parameters = inputs[:number_of_maps], inputs[number_of_maps:]

        def whole(*maps):
            return fast_linear(fn(*maps, *parameters), weight, bias)

        is_narrowing = weight.shape[1] > weight.shape[0]  # then the input is larger than the output
        return map_chunks(whole, *maps) if is_narrowing else whole(*maps)

    @staticmethod
    def backward(ctx, grad_out):
        (weight, bias, *inputs), needs_grad, n = ctx.saved_tensors, ctx.needs_input_grad[2:], ctx.number_of_maps
        if torch.is_grad_enabled():  # double backward

            def composed(weight, bias, *inputs):
                return F.linear(ctx.fn(*inputs), weight, bias)

            tensors = (weight, bias, *inputs)
            return None, None, *double_differentiable(composed, tensors, needs_grad, grad_out, ctx.restore)

        maps, parameters = inputs[:n], inputs[n:]
        transposed = weight.to(grad_out.dtype).mT
        sums = [_Sum() for _ in range(2 + len(parameters))]
        grad_maps = [_Chunks(t) for t in maps]
        for grad_chunk, *chunk in zip(*map(_chunks, (grad_out, *maps))):
            leaves = detached_leaves((*chunk, *parameters), needs_grad[2:])
            with torch.enable_grad(), ctx.restore():
                x = ctx.fn(*leaves)
            if needs_grad[0]:
                sums[0].add(grad_chunk.mT @ x.detach().to(grad_chunk.dtype))
            if needs_grad[1]:
                sums[1].add(grad_chunk.sum(0))
            grad_x = fast_linear(grad_chunk, transposed) if any(needs_grad[2:]) else None
            for whole, part in zip((*grad_maps, *sums[2:]), gradients(x, leaves, grad_x)):
                if part is not None:
                    whole.add(part)
        grad_parameters = [total.to(t) for total, t in zip(sums, (weight, bias, *parameters))]
        return None, None, *grad_parameters[:2], *(grad.whole for grad in grad_maps), *grad_parameters[2:]


def _chunks(t: Tensor) -> tuple[Tensor, ...]:
    """(..., C) -> (positions, C), on a CPU in chunks that fit in cache."""
    t = t.flatten(0, -2)
    return t.split(cpu_fast_path.CHUNK_TOKENS) if t.device.type == 'cpu' else (t,)


class _Chunks:
    """Assembles a map from consecutive chunks; a single chunk is not copied."""

    def __init__(self, like: Tensor):
        self.like, self.whole, self.filled = like, None, 0

    def add(self, chunk: Tensor) -> None:
        if len(chunk) == self.like.shape[:-1].numel():
            self.whole = chunk.view_as(self.like)
            return
        if self.whole is None:
            self.whole = torch.empty_like(self.like, memory_format=torch.contiguous_format)
        self.whole.flatten(0, -2)[self.filled : self.filled + len(chunk)] = chunk
        self.filled += len(chunk)


class _Sum:
    """Accumulates the contributions of chunks in float32 or wider."""

    def __init__(self):
        self.value = None

    def add(self, part: Tensor) -> None:
        if self.value is None:
            self.value = part.to(torch.promote_types(part.dtype, torch.float32))
        else:
            self.value += part

    def to(self, like: Tensor | None) -> Tensor | None:
        return None if self.value is None or like is None else self.value.to(like.dtype)
