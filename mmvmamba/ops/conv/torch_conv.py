"""The depthwise convolution with SiLU in PyTorch's operators: for any device and dtype, traceable, differentiable."""

from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor


def conv_silu(x: Tensor, weight: Tensor, bias: Tensor | None, left: list[int]) -> Tensor:
    """(B, H, W, E), (K, E, rows, columns), (K, E) or None -> (B, K, H, W, E), as defined in `conv_silu.py`."""
    biases = _each(bias, len(left))
    return F.silu(torch.stack([_convolve(x, *kernel) for kernel in zip(weight, biases, left)], 1))


def conv_silu_backward(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, left: list[int]
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The gradients of x, weight and bias in their dtypes. The convolution is recomputed."""
    grad_x, grad_weight, grad_bias = [], [], []
    for k, kernel in enumerate(zip(weight, _each(bias, len(left)), left)):
        z = _convolve(x, *kernel)
        grad_z = torch.ops.aten.silu_backward(grad[:, k].to(z.dtype), z)
        for grads, of_this in zip((grad_x, grad_weight, grad_bias), _convolve_backward(grad_z, x, *kernel)):
            grads.append(of_this)
    return (
        reduce(torch.add, grad_x),
        torch.stack(grad_weight).to(weight.dtype),
        None if bias is None else torch.stack(grad_bias).to(bias.dtype),
    )


def _each(bias: Tensor | None, count: int) -> list[Tensor | None]:
    return [None] * count if bias is None else list(bias)


def _padding(weight: Tensor, left: int) -> tuple[int, int]:
    """Rows and columns of zeros on both sides: the maximum that the kernel needs on one of them."""
    rows, columns = weight.shape[-2:]
    return rows // 2, max(left, columns - 1 - left)


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None, left: int) -> Tensor:
    """(B, H, W, E), (E, rows, columns), (E,) -> (B, H, W, E)."""
    padding = _padding(weight, left)
    bias = None if bias is None else bias.to(x.dtype)
    z = F.conv2d(x.permute(0, 3, 1, 2), weight.unsqueeze(1).to(x.dtype), bias, padding=padding, groups=len(weight))
    return z.narrow(3, padding[1] - left, x.shape[2]).permute(0, 2, 3, 1)


def _convolve_backward(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, left: int
) -> tuple[Tensor, Tensor, Tensor]:
    padding = _padding(weight, left)
    # pads the columns that `narrow` removed on the left and on the right
    grad = F.pad(grad, (0, 0, padding[1] - left, padding[1] - (weight.shape[-1] - 1 - left)))
    grad_x, grad_weight, grad_bias = torch.ops.aten.convolution_backward(
        grad.permute(0, 3, 1, 2),
        x.permute(0, 3, 1, 2),
        weight.unsqueeze(1).to(x.dtype),
        None if bias is None else [len(weight)],
        [1, 1],
        padding,
        [1, 1],
        False,
        [0, 0],
        len(weight),
        [True, True, bias is not None],
    )
    return grad_x.permute(0, 2, 3, 1).contiguous(), grad_weight.squeeze(1), grad_bias
