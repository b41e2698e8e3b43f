"""The backends of the depthwise convolution, in the order in which 'auto' tries them.

Each has a ``forward(x, weight, bias, left) -> y`` and a ``backward(grad, x, weight, bias, left)`` that returns the
gradients of x, weight and bias. `conv_silu.py` documents the arguments.
"""

from torch import Tensor

from .. import native as native_kernels
from .. import triton_kernels
from ..arguments import DTYPES, KERNEL_DTYPES
from ..operation import Backend, Operation
from . import native, torch_conv
from .signature import ConvSignature


def _triton_forward(x: Tensor, weight: Tensor, bias: Tensor | None, left: list[int]) -> Tensor:
    from .triton_launch import forward  # imports Triton

    return forward(x, weight, bias, left)


def _triton_backward(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, left: list[int]
) -> tuple[Tensor, Tensor, Tensor | None]:
    from .triton_launch import backward

    return backward(grad, x, weight, bias, left)


CONV = Operation(
    'convolution',
    ConvSignature.of,
    Backend(
        'native',
        devices=('cpu',),
        dtypes=KERNEL_DTYPES,
        forward=native.conv_silu,
        backward=native.conv_silu_backward,
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
        'chunked',  # PyTorch's own convolution, under the name of the plain PyTorch scan
        devices=None,
        dtypes=DTYPES,
        forward=torch_conv.conv_silu,
        backward=torch_conv.conv_silu_backward,
        traceable=True,
    ),
)
