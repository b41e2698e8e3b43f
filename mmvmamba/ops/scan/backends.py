"""The backends of the scan, in the order in which 'auto' tries them.

Each has a ``forward(inputs, out_dtype) -> y`` and a ``backward(grad_y, inputs)`` that returns the gradients of the
eight tensors of `ScanInputs`. Autograd differentiates traceable backends, so their backward runs only in jit traces.
"""

import torch
from torch import Tensor

from .. import native as native_kernels
from .. import triton_kernels
from ..arguments import DTYPES, KERNEL_DTYPES
from ..operation import Backend, Operation
from . import chunked, mamba_ssm_backend, native, reference
from .scan_inputs import ScanInputs
from .signature import ScanSignature


def _triton_forward(inputs: ScanInputs, out_dtype: torch.dtype) -> Tensor:
    from .triton_launch import forward  # imports Triton

    return forward(inputs, out_dtype)


def _triton_backward(grad_y: Tensor, inputs: ScanInputs) -> tuple[Tensor | None, ...]:
    from .triton_launch import backward

    return backward(grad_y, inputs)


SCAN = Operation(
    'scan',
    ScanSignature.of,
    Backend(
        'native',
        devices=('cpu',),
        dtypes=KERNEL_DTYPES,
        forward=native.selective_scan_2d,
        backward=native.selective_scan_2d_backward,
        unavailable_reason=native_kernels.unavailable_reason,
    ),
    Backend(
        'triton',
        devices=triton_kernels.DEVICES,
        dtypes=KERNEL_DTYPES,
        forward=_triton_forward,
        backward=_triton_backward,
        unavailable_reason=triton_kernels.unavailable_reason,
        verify_on_first_use=True,
    ),
    Backend(
        'chunked',
        devices=None,
        dtypes=DTYPES,
        forward=chunked.selective_scan_2d,
        backward=chunked.selective_scan_2d_backward,
        traceable=True,
    ),
    Backend(
        'reference',
        devices=None,
        dtypes=DTYPES,
        forward=reference.selective_scan_2d,
        backward=chunked.selective_scan_2d_backward,
        traceable=True,
    ),
    Backend(
        'mamba_ssm',
        devices=('cuda',),
        dtypes=KERNEL_DTYPES,
        forward=mamba_ssm_backend.selective_scan_2d,
        backward=chunked.selective_scan_2d_backward,
        traceable=True,
        unavailable_reason=mamba_ssm_backend.unavailable_reason,
    ),
)
