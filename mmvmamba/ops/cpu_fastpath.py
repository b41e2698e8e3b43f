"""The layers around the scan as a CPU computes them where no gradient is recorded: in less time and memory.

That is inference, and in training the inside of the units of `recompute.py`. Piece by piece, what lies between the
input and the output of some layers stays in cache: an MLP takes up to half the time, and no memory for its hidden
layer. Elsewhere these functions are the plain composition of their layers.
"""

import os
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .backend import in_function_transform
from .depthwise_conv import conv_silu_1d
from .setting import Setting

PIECE = 2048  # positions
WORTH_ONEDNN = 2**24  # multiply-adds: a call of oneDNN takes 10 us more than one of the BLAS

# oneDNN's linear layer, which torch.compile uses too; None where PyTorch lacks it.
_linear = getattr(torch.ops.mkldnn, '_linear_pointwise', None) if torch.backends.mkldnn.is_available() else None


class use_cpu_fastpath(Setting, default=os.environ.get('MMVMAMBA_CPU_FASTPATH') != '0'):
    """Whether a CPU takes this module's way: a call for the process, or a context manager for a block.

    The environment variable `MMVMAMBA_CPU_FASTPATH=0` switches it off at start. It is never taken where gradients are
    recorded, by tracers and compilers, or through layers that are more than their weights, such as adapters.
    """

    def __init__(self, enabled: bool):
        super().__init__(enabled)


def infers_on_cpu(x: Tensor) -> bool:
    """Whether this runs on a CPU, keeps nothing for a backward pass, is not traced, and may take the fast way."""
    return (
        x.device.type == 'cpu'
        and not torch.is_grad_enabled()
        and not (torch.compiler.is_compiling() or torch.jit.is_tracing())
        and not in_function_transform()  # oneDNN's layer has no rules for one
        and use_cpu_fastpath.get()
    )


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, gelu: bool = False) -> Tensor:
    """A linear layer, and the GELU of what it gives, (..., C) -> (..., C'); weight is (C', C), any strides.

    In float32 it is oneDNN's, in which the bias and the GELU cost nothing, and whose product takes less time than that
    of the MKL that PyTorch multiplies with: the log in benchmarks/README.md.
    """
    if _takes_onednn(x, weight, bias) and (gelu or x.numel() * len(weight) >= WORTH_ONEDNN):
        return _linear(x, weight, bias, 'gelu' if gelu else 'none', [], 'none' if gelu else '')
    x = F.linear(x, weight, bias)
    return F.gelu(x) if gelu else x


def linears(x: Tensor, weights: Tensor) -> Tensor:
    """K linear layers, each of its own map: (B, K, L, C) with weights (K, C', C) -> (B, K, L, C')."""
    if _takes_onednn(x, weights) and x[:, 0].numel() * weights.shape[1] >= WORTH_ONEDNN:
        return torch.stack([linear(t, weight) for t, weight in zip(x.unbind(1), weights)], 1)
    return x @ weights.mT


def _takes_onednn(x: Tensor, *parameters: Tensor | None) -> bool:
    """To be asked before any size, of which a tracer would make a guard."""
    return (
        _linear is not None
        and infers_on_cpu(x)
        and torch.backends.mkldnn.enabled
        and all(t.dtype == torch.float32 for t in (x, *parameters) if t is not None)
        and not torch.is_autocast_enabled('cpu')  # it would not see this operator
    )


def feed_forward(x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor) -> Tensor:
    """Two linear layers around a GELU, (..., C) -> (..., C'); weights are (out, in)."""
    return in_pieces(lambda x: linear(linear(x, weight1, bias1, gelu=True), weight2, bias2), x)


def project_conv_silu(
    x: Tensor, in_weight: Tensor, weights: Tensor, biases: Tensor | None, reverse: tuple[bool, ...]
) -> Tensor:
    """SiLU of K causal convolutions of one projected sequence: (B, L, C) -> (B, K, L, E).

    Args:
        x: (B, L, C).
        in_weight: (E, C).
        weights, biases, reverse: as in `conv_silu_1d`.
    """
    length, halo = x.shape[1], weights.shape[-1] - 1
    if not infers_on_cpu(x) or length <= PIECE:
        return conv_silu_1d(linear(x, in_weight), weights, biases, reverse)
    dtype = F.linear(x[:, :0], in_weight).dtype  # autocast may have chosen it
    out = x.new_empty(len(x), len(weights), length, len(in_weight), dtype=dtype)
    for begin in range(0, length, PIECE):  # of every sample: shorter pieces would mostly be neighbours
        end = min(begin + PIECE, length)
        first, last = max(begin - halo, 0), min(end + halo, length)  # with the neighbours that the convolutions see
        piece = conv_silu_1d(linear(x[:, first:last], in_weight), weights, biases, reverse)
        out[:, :, begin:end] = piece[:, :, begin - first : end - first]
    return out


def gate_and_project(x: Tensor, y: Tensor, gate_weight: Tensor, out_weight: Tensor, scale: float) -> Tensor:
    """The end of a Mamba block: the scan's output y (..., E), gated by its input x (..., C), -> (..., C)."""

    def piece(x: Tensor, y: Tensor) -> Tensor:
        gate = linear(x, gate_weight)
        y = y * F.silu(gate)
        return linear(y.to(gate.dtype), out_weight) * scale

    return in_pieces(piece, x, y)


def in_pieces(function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """`function(*inputs)`, where each position (all dimensions but the last) stands for itself."""
    positions = inputs[0].shape[:-1]
    if not infers_on_cpu(inputs[0]) or positions.numel() <= PIECE:
        return function(*inputs)
    pieces = zip(*(x.flatten(0, -2).split(PIECE) for x in inputs))
    return torch.cat([function(*piece) for piece in pieces]).unflatten(0, positions)
