"""The scan and the convolution on CUDA devices, in Triton, which is imported when used and not with this package."""

import os
from functools import cache

import torch
from torch import Tensor

from ..import_failure import import_failure, in_one_line
from ..scan_inputs import ScanInputs


def unavailable_reason() -> str | None:
    """None if the kernels can run here, else one sentence that says why not."""
    if reason := _import_failure():
        return reason
    import triton

    if tuple(int(n) for n in triton.__version__.split('.')[:2]) < (3, 3):  # no tuples in kernels
        return f'Triton {triton.__version__} is too old; PyTorch 2.7 and newer come with one that can, 3.3 or newer.'
    if os.environ.get('TRITON_INTERPRET') == '1' or torch.cuda.is_available():
        return None
    return "PyTorch sees no CUDA device (TRITON_INTERPRET=1, set at start, runs Triton's slow interpreter on the CPU)."


@cache  # each scan on a GPU asks, and a failing import may take seconds
def _import_failure() -> str | None:
    error = import_failure('triton', 'triton.language')
    if isinstance(error, ModuleNotFoundError):
        return 'Triton is not installed; on Linux, `pip install triton` gets it.'
    return error and f'Triton is installed, but cannot be imported ({in_one_line(error)}).'


def selective_scan_2d(inputs: ScanInputs, out_dtype: torch.dtype) -> Tensor:
    """Computes y (b, H, W, d) from maps of 16 or 32 bits; states and sums are float32."""
    from .launch import forward

    return forward(inputs, out_dtype)


def selective_scan_2d_backward(grad_y: Tensor, inputs: ScanInputs) -> tuple[Tensor | None, ...]:
    """The gradients of the tensors of `inputs`, each in the shape and dtype of its input; None where that is None."""
    from .launch import backward

    return backward(grad_y, inputs)


def conv_silu(x: Tensor, weight: Tensor, bias: Tensor | None, left: list[int]) -> Tensor:
    """(B, H, W, E), (K, E, rows, columns), (K, E) -> (B, K, H, W, E), as `mmvmamba.ops.depthwise_conv` defines it."""
    from .conv_launch import forward

    return forward(x, weight, bias, left)


def conv_silu_backward(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, left: list[int]
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The gradients of x, weight and bias, in their types; dz, K maps in float32, is held meanwhile."""
    from .conv_launch import backward

    return backward(grad, x, weight, bias, left)
