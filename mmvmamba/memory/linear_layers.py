"""Linear layers whose input may be deferred: training then saves the maps that the input is computed from.

If the result of a layer does not follow from its weight and bias alone (it has hooks or an adapter, is quantised, or is
another module than `nn.Linear`; see `eligibility.py`), the layer is called as usual, and a deferred input is computed
first. `fast_linear` is `F.linear`, except on a CPU while autograd does not record.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function

from . import cpu_fast_path
from .cpu_fast_path import apply_in_chunks, fast_linear, is_on_cpu_fast_path
from .deferred import Deferred, as_tensor, autograd_is_recording, defer, deferred_or_none
from .eligibility import can_use_raw_weights
from .recompute import capture_context, detached_leaves, gradients, gradients_with_graph


def linear(layer: nn.Linear, x: Tensor | Deferred) -> Tensor:
    """``layer(x)``: (..., C) -> (..., C').

    A deferred x must be computed from each position separately (a norm, an activation, a gate, a linear layer), because
    it is computed in chunks of positions.
    """
    if not can_use_raw_weights(nn.Linear, layer):
        return layer(as_tensor(x))
    return linear_from_weights(x, layer.weight, layer.bias)


def linear_gelu(layer: nn.Linear, x: Tensor) -> Deferred:
    """``gelu(layer(x))`` as a deferred value, the input of another `linear`.

    Training computes and saves ``layer(x)``, and recomputes only the GELU. Inference on a CPU defers the layer as well,
    so that its output, the hidden map of an MLP, is never stored as a whole.
    """
    if is_on_cpu_fast_path(x) and can_use_raw_weights(nn.Linear, layer):
        return defer(_linear_gelu, x, parameters=(layer.weight, layer.bias))
    return defer(F.gelu, linear(layer, x))


def split_linear(layer: nn.Linear, x: Tensor) -> tuple[Tensor | Deferred, Tensor | Deferred]:
    """The two halves of ``layer(x)``, each (..., C' / 2).

    The second half is deferred. The first half is computed now; inference on a CPU defers it, too, to compute it in
    chunks.
    """
    if not can_use_raw_weights(nn.Linear, layer):
        return layer(x).chunk(2, -1)
    weight_1, weight_2 = layer.weight.chunk(2)
    bias_1, bias_2 = (None, None) if layer.bias is None else layer.bias.chunk(2)
    second_half = defer(fast_linear, x, parameters=(weight_2, bias_2))
    if is_on_cpu_fast_path(x):
        return defer(fast_linear, x, parameters=(weight_1, bias_1)), second_half
    return linear_from_weights(x, weight_1, bias_1), second_half


def apply_gate(y: Tensor, z: Tensor | Deferred) -> Deferred:
    """``y * silu(z)``, in z's dtype, as a deferred value, the input of `linear`."""
    return defer(_gate, y, z)


def _gate(y: Tensor, z: Tensor) -> Tensor:
    return (y * F.silu(z)).to(z.dtype)


def _linear_gelu(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return fast_linear(x, weight, bias, gelu=True)


def linear_from_weights(x: Tensor | Deferred, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Same as `linear`, for a layer given by its weight (C', C) and its bias, (C',) or None."""
    source = deferred_or_none(x)  # x if it is deferred, or the Deferred that a norm has attached to it, or None
    if source is None:
        return fast_linear(as_tensor(x), weight, bias)  # x is a tensor; as_tensor is for the type checker
    if autograd_is_recording():
        return _LinearOfDeferred.apply(source.fn, len(source.maps), weight, bias, *source.maps, *source.parameters)
    return apply_in_chunks(lambda *maps: fast_linear(source.fn(*maps, *source.parameters), weight, bias), *source.maps)


class _LinearOfDeferred(Function):
    """``linear(fn(*maps, *parameters), weight, bias)``; saves only its arguments."""

    @staticmethod
    def forward(ctx, fn, number_of_maps, weight, bias, *inputs):
        ctx.fn, ctx.number_of_maps = fn, number_of_maps
        ctx.forward_context = capture_context(weight)  # backward recomputes under the same autocast state and backend
        ctx.save_for_backward(weight, bias, *inputs)
        maps, parameters = inputs[:number_of_maps], inputs[number_of_maps:]

        def compute(*maps):
            return fast_linear(fn(*maps, *parameters), weight, bias)

        # If the deferred input is larger than the output, chunks avoid storing it as a whole.
        return apply_in_chunks(compute, *maps) if weight.shape[1] > weight.shape[0] else compute(*maps)

    @staticmethod
    def backward(ctx, grad_out):
        (weight, bias, *inputs), n = ctx.saved_tensors, ctx.number_of_maps
        needs_grad = ctx.needs_input_grad[2:]  # without fn and number_of_maps
        needs_weight, needs_bias, *needs_inputs = needs_grad
        if torch.is_grad_enabled():  # double backward

            def compute(weight, bias, *inputs):  # on a CPU, fast_linear has no derivative
                return F.linear(ctx.fn(*inputs), weight, bias)

            tensors = (weight, bias, *inputs)
            return None, None, *gradients_with_graph(compute, tensors, needs_grad, grad_out, ctx.forward_context)

        maps, parameters = inputs[:n], inputs[n:]
        weight_t = weight.to(grad_out.dtype).mT
        grad_weight, grad_bias, grad_maps = _Sum(), _Sum(), [_ChunkAssembler(t) for t in maps]
        grad_parameters = [_Sum() for _ in parameters]
        chunks = [_split_into_chunks(t) for t in (grad_out, *maps)]
        for grad_chunk, *chunk_of_maps in zip(*chunks):
            leaves = detached_leaves((*chunk_of_maps, *parameters), needs_inputs)
            with torch.enable_grad(), ctx.forward_context():
                x = ctx.fn(*leaves)
            if needs_weight:
                grad_weight.add(grad_chunk.mT @ x.detach().to(grad_chunk.dtype))
            if needs_bias:
                grad_bias.add(grad_chunk.sum(0))
            grad_x = fast_linear(grad_chunk, weight_t) if any(needs_inputs) else None  # grad_chunk @ weight
            for accumulator, part in zip((*grad_maps, *grad_parameters), gradients(x, leaves, grad_x)):
                if part is not None:
                    accumulator.add(part)
        return (
            None,
            None,
            grad_weight.total(weight),
            grad_bias.total(bias),
            *(grad.result for grad in grad_maps),
            *(grad.total(parameter) for grad, parameter in zip(grad_parameters, parameters)),
        )


def _split_into_chunks(t: Tensor) -> tuple[Tensor, ...]:
    """(..., C) -> (positions, C), on a CPU in chunks that fit in cache."""
    t = t.flatten(0, -2)
    return t.split(cpu_fast_path.CHUNK_TOKENS) if t.device.type == 'cpu' else (t,)


class _ChunkAssembler:
    """Assembles a map from consecutive chunks; a single chunk is not copied."""

    def __init__(self, like: Tensor):
        self.like, self.result, self.filled = like, None, 0

    def add(self, chunk: Tensor) -> None:
        if len(chunk) == self.like.shape[:-1].numel():
            self.result = chunk.view_as(self.like)
            return
        if self.result is None:
            self.result = torch.empty_like(self.like, memory_format=torch.contiguous_format)
        self.result.flatten(0, -2)[self.filled : self.filled + len(chunk)] = chunk
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

    def total(self, like: Tensor | None) -> Tensor | None:
        """The sum in the dtype of `like`; None if nothing was added."""
        return None if self.value is None or like is None else self.value.to(like.dtype)
