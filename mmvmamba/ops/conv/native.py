"""Calls the C convolution kernels with the pointers and strides of tensors."""

import ctypes

import torch
from torch import Tensor

from ..native.call import as_parameter, call, map_struct, readable_by_kernel
from ..native.library import CONV_MAPS, ConvArgs
from ..native.threads import thread_count


def _call(name: str, x: Tensor, weight: Tensor, bias: Tensor | None, left: list[int], **tensors: Tensor) -> None:
    """Calls the C function `name`.

    Args:
        tensors: Maps (B, [K,] H, W, E) and parameter gradients, named like their fields in `ConvArgs`.
    """
    x, parameters = readable_by_kernel(x), dict(weight=as_parameter(weight), bias=as_parameter(bias))
    lefts = (ctypes.c_int64 * len(left))(*left)
    batch, height, width, channels = x.shape
    arguments = ConvArgs(
        batch=batch,
        height=height,
        width=width,
        channels=channels,
        kernels=len(left),
        rows=weight.shape[2],
        columns=weight.shape[3],
        threads=thread_count(),
        left=ctypes.addressof(lefts),
        x=map_struct(x),
    )
    for field, tensor in {**parameters, **tensors}.items():
        if tensor is not None:
            setattr(arguments, field, map_struct(tensor) if field in CONV_MAPS else tensor.data_ptr())
    call(name, arguments)


def conv_silu(x: Tensor, weight: Tensor, bias: Tensor | None, left: list[int]) -> Tensor:
    """Applies K depthwise convolutions and SiLU to a map, as defined in `conv_silu.py`.

    Args:
        x: (B, H, W, E) in float32, bfloat16 or float16, with any strides.
        weight: (K, E, rows, columns).
        bias: (K, E) or None.
        left: Left padding of each kernel, in columns.

    Returns:
        (B, K, H, W, E) in the dtype of x.
    """
    y = x.new_empty((len(x), len(left), *x.shape[1:]))
    _call('conv_forward', x, weight, bias, left, y=y)
    return y


def conv_silu_backward(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, left: list[int]
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Returns the gradients of x, weight and bias in the dtypes of these tensors."""
    grad_x = x.new_empty(x.shape)
    grad_weight = torch.empty(weight.shape, dtype=torch.float32)
    grad_bias = torch.empty(weight.shape[:2], dtype=torch.float32)
    _call(
        'conv_backward',
        x,
        weight,
        bias,
        left,
        grad_y=readable_by_kernel(grad),
        grad_x=grad_x,
        grad_weight=grad_weight,
        grad_bias=grad_bias,
    )
    return grad_x, grad_weight.to(weight.dtype), None if bias is None else grad_bias.to(bias.dtype)
