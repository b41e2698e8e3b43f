"""Causal convolutions of a deferred sequence. Inference on a CPU computes them chunk by chunk."""

from torch import Tensor

from ..ops import conv_silu_1d
from . import cpu_fast_path
from .cpu_fast_path import is_on_cpu_fast_path
from .deferred import Deferred, defer


def causal_conv_silu(
    x: Tensor | Deferred, weights: Tensor, biases: Tensor, reverse: tuple[bool, ...]
) -> Tensor | Deferred:
    """Applies `conv_silu_1d` and returns maps of height 1, the layout that `project_and_scan` takes.

    The result is deferred, so that training saves only x. Inference on a CPU computes it instead if x is deferred and
    long: chunk by chunk, so that x is never stored as a whole.

    Args:
        x: (B, L, E).
        weights: (K, E, taps).
        biases: (K, E).
        reverse: for each convolution, whether a position reads itself and later positions instead of earlier ones.

    Returns:
        (B, 1, L, E) if K is 1, else (B, K, 1, L, E).
    """

    def convolve(x: Tensor, weights: Tensor, biases: Tensor) -> Tensor:
        return as_maps(conv_silu_1d(x, weights, biases, reverse))

    length = (x.maps[0] if isinstance(x, Deferred) else x).shape[1]
    chunk_size = cpu_fast_path.CHUNK_TOKENS
    if not (isinstance(x, Deferred) and is_on_cpu_fast_path(weights) and length > chunk_size):
        return defer(convolve, x, parameters=(weights, biases))
    halo = weights.shape[-1] - 1  # positions outside of a chunk that its convolutions read
    out = None
    # A chunk contains chunk_size positions of every sample: if it were divided among the samples of a batch, the chunks
    # of a sample would be short, and computing their halos would take most of the time.
    for begin in range(0, length, chunk_size):
        end = min(begin + chunk_size, length)
        first, last = max(begin - halo, 0), min(end + halo, length)  # the halo is on the right of reverse convolutions
        chunk = convolve(x.slice(first, last), weights, biases)
        out = chunk.new_empty(*chunk.shape[:-2], length, chunk.shape[-1]) if out is None else out
        out[..., begin:end, :] = chunk[..., begin - first : end - first, :]
    return out  # pyright: ignore[reportReturnType]  (not None: the sequence is not empty)


def as_maps(x: Tensor) -> Tensor:
    """(B, K, L, E) -> maps of height 1: (B, K, 1, L, E); if K is 1, (B, 1, L, E), which all traversals share."""
    return x if x.shape[1] == 1 else x.unsqueeze(2)
