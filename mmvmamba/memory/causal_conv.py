"""Causal convolutions of a deferred sequence. Inference on a CPU computes them chunk by chunk."""

from torch import Tensor

from ..ops import conv_silu_1d
from . import cpu_fast_path
from .cpu_fast_path import is_on_cpu_fast_path
from .deferred import Deferred, defer


def causal_conv_silu(
    x: Tensor | Deferred, weights: Tensor, biases: Tensor, reverse: tuple[bool, ...]
) -> Tensor | Deferred:
    """`conv_silu_1d`, returned as maps of height 1 for `project_and_scan`; training saves only x.

    Args:
        x: (B, L, E).
        weights, biases, reverse: as in `conv_silu_1d`, for K convolutions.

    Returns:
        (B, 1, L, E) if K is 1, else (B, K, 1, L, E).
    """

    def convolve(x: Tensor, weights: Tensor, biases: Tensor) -> Tensor:
        return as_maps(conv_silu_1d(x, weights, biases, reverse))

    length, size = (x.maps[0] if isinstance(x, Deferred) else x).shape[1], cpu_fast_path.CHUNK_TOKENS
    if not (isinstance(x, Deferred) and is_on_cpu_fast_path(weights) and length > size):
        return defer(convolve, x, parameters=(weights, biases))
    halo, out = weights.shape[-1] - 1, None
    for begin in range(0, length, size):  # a chunk covers all samples; shorter chunks would be mostly halo
        end = min(begin + size, length)
        first, last = max(begin - halo, 0), min(end + halo, length)  # includes the halo that the convolutions read
        chunk = convolve(x.fn(*(t[:, first:last] for t in x.maps), *x.parameters), weights, biases)
        out = chunk.new_empty(*chunk.shape[:-2], length, chunk.shape[-1]) if out is None else out
        out[..., begin:end, :] = chunk[..., begin - first : end - first, :]
    return out  # pyright: ignore[reportReturnType]  (not None: the sequence is not empty)


def as_maps(x: Tensor) -> Tensor:
    """(B, K, L, E) -> maps of height 1: a single map shared by all directions if K is 1, else one per direction."""
    return x if x.shape[1] == 1 else x.unsqueeze(2)
