"""Launches the convolution kernels."""

import torch
import triton
from torch import Tensor

from ..triton_kernels import FUSION
from ..triton_kernels.conv import convolve, convolve_back, spread_back

BLOCK = dict(BP=32, BD=64, num_warps=4, **FUSION)  # not autotuned: it fixes the order of sums; not tuned on a device
MOST = 15  # kernels, and columns of left padding: `lefts` has 4 bits for each


class Convolution:
    """The kernel arguments of one call."""

    def __init__(self, x: Tensor, weight: Tensor, bias: Tensor | None, left: list[int]):
        if len(left) > MOST or max(left) > MOST:
            raise ValueError(
                f'The Triton convolution takes at most {MOST} kernels of {MOST + 1} columns, not left={left}: '
                "use_backend('chunked') takes any."
            )
        self.x = x if x.stride(-1) == 1 else x.contiguous()
        self.batch, self.height, self.width, self.channels = x.shape
        self.kernels, _, rows, columns = weight.shape
        self.length = self.height * self.width
        self.pieces = triton.cdiv(self.length, BLOCK['BP'])
        self.blocks = self.batch * self.pieces * triton.cdiv(self.channels, BLOCK['BD'])
        self.weight = weight.flatten(2).mT.to(torch.float32).contiguous()
        self.bias = None if bias is None else bias.to(torch.float32).contiguous()
        self.geometry = dict(
            kernels=self.kernels, lefts=sum(of << 4 * k for k, of in enumerate(left)), height=self.height,
            width=self.width, channels=self.channels, ROWS=rows, COLUMNS=columns, **BLOCK,
        )  # fmt: skip

    def inputs(self) -> dict:
        strides = self.x.stride()
        return dict(
            p_x=self.x, p_weight=self.weight, p_bias=self.bias, s_x_b=strides[0], s_x_h=strides[1], s_x_w=strides[2],
            **self.geometry,
        )  # fmt: skip

    def wide(self, *tensors: Tensor) -> bool:
        """Returns whether an offset within an image needs 64 bits."""
        return any(self.height * t.stride(-3) + self.width * t.stride(-2) >= 1 << 31 for t in tensors)

    def maps(self, dtype: torch.dtype) -> Tensor:
        return self.x.new_empty((self.batch, self.kernels, self.height, self.width, self.channels), dtype=dtype)


def forward(x: Tensor, weight: Tensor, bias: Tensor | None, left: list[int]) -> Tensor:
    c = Convolution(x, weight, bias, left)
    y = c.maps(x.dtype)
    with torch.cuda.device_of(x):
        convolve[(c.blocks * c.kernels,)](p_y=y, WIDE=c.wide(c.x), **c.inputs())
    return y


def backward(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, left: list[int]
) -> tuple[Tensor, Tensor, Tensor | None]:
    c = Convolution(x, weight, bias, left)
    grad = grad if grad.stride(-1) == 1 else grad.contiguous()
    dx, dz = x.new_empty(x.shape), c.maps(torch.float32)
    taps = c.weight.shape[1]
    parts = dz.new_empty(c.batch * c.pieces, c.kernels, taps + 1, c.channels)
    with torch.cuda.device_of(x):
        convolve_back[(c.blocks * c.kernels,)](
            p_grad_y=grad, p_dz=dz, p_parts=parts, s_grad_y_b=grad.stride(0), s_grad_y_k=grad.stride(1),
            s_grad_y_h=grad.stride(2), s_grad_y_w=grad.stride(3), WIDE=c.wide(c.x, grad), **c.inputs(),
        )  # fmt: skip
        spread_back[(c.blocks,)](p_dz=dz, p_weight=c.weight, p_dx=dx, WIDE=c.wide(dz), **c.geometry)
    sums = parts.sum(0)
    dweight = sums[:, :taps].mT.reshape(weight.shape).to(weight.dtype).contiguous()
    return dx, dweight, None if bias is None else sums[:, taps].to(bias.dtype).contiguous()
