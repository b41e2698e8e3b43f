"""Triton kernels of the scan and the convolution for CUDA devices. Triton is imported on first use only."""

import os
from functools import cache

import torch
from torch import Tensor

from ..import_failure import import_failure, in_one_line
from ..scan.scan_inputs import ScanInputs


def unavailable_reason() -> str | None:
    """Returns None if the kernels can run, else one sentence with the reason."""
    if reason := _import_failure():
        return reason
    import triton

    if tuple(int(n) for n in triton.__version__.split('.')[:2]) < (3, 3):  # no tuples in kernels
        return f'Triton {triton.__version__} is too old; PyTorch 2.7 and newer come with one that can, 3.3 or newer.'
    if os.environ.get('TRITON_INTERPRET') == '1' or torch.cuda.is_available():
        return None
    return "PyTorch sees no CUDA device (TRITON_INTERPRET=1, set at start, runs Triton's slow interpreter on the CPU)."


@cache  # every scan on a GPU calls this, and a failing import may take seconds
def _import_failure() -> str | None:
    error = import_failure('triton', 'triton.language')
    if isinstance(error, ModuleNotFoundError):
        return 'Triton is not installed; on Linux, `pip install triton` gets it.'
    return error and f'Triton is installed, but cannot be imported ({in_one_line(error)}).'


def selective_scan_2d(inputs: ScanInputs, out_dtype: torch.dtype) -> Tensor:
    """Computes y (b, H, W, d) from maps in 16-bit or 32-bit dtypes. States and sums are float32."""
    from ..scan.triton_launch import forward

    return forward(inputs, out_dtype)


def selective_scan_2d_backward(grad_y: Tensor, inputs: ScanInputs) -> tuple[Tensor | None, ...]:
    """Returns the gradients of the tensors in `inputs`, with their shapes and dtypes, and None for missing tensors."""
    from ..scan.triton_launch import backward

    return backward(grad_y, inputs)


def conv_silu(x: Tensor, weight: Tensor, bias: Tensor | None, left: list[int]) -> Tensor:
    """(B, H, W, E), (K, E, rows, columns), (K, E) -> (B, K, H, W, E), as defined in `mmvmamba.ops.depthwise_conv`."""
    from ..conv.triton_launch import forward

    return forward(x, weight, bias, left)


def conv_silu_backward(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, left: list[int]
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Returns the gradients of x, weight and bias in their dtypes. Needs memory for dz: K maps in float32."""
    from ..conv.triton_launch import backward

    return backward(grad, x, weight, bias, left)
