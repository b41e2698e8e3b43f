"""What a kernel of the depthwise convolution is compiled for, and the maps on which it is verified."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import self_check
from . import torch_conv


class ConvSignature(NamedTuple):
    """Identifies a compiled kernel.

    Attributes:
        device: the device.
        dtypes: dtypes of x, weight and bias, None for a missing bias.
        kernel: rows and columns.
        left: as in `conv_silu.py`.
    """

    device: torch.device
    dtypes: tuple[torch.dtype | None, ...]
    kernel: tuple[int, int]
    left: tuple[int, ...]

    @classmethod
    def of(cls, inputs: tuple[Tensor, Tensor, Tensor | None, Sequence[int]]) -> 'ConvSignature':
        x, weight, bias, left = inputs
        dtypes = (x.dtype, weight.dtype, None if bias is None else bias.dtype)
        return cls(x.device, dtypes, (weight.shape[-2], weight.shape[-1]), tuple(left))

    @property
    def exact(self) -> tuple[Callable, Callable]:
        return torch_conv.conv_silu, torch_conv.conv_silu_backward

    def small_inputs(self) -> Iterator[list[Any]]:
        """Yields x, weight, bias and a gradient of the result."""
        random = torch.Generator('cpu').manual_seed(0)
        batch, K, d = self_check.BATCH, len(self.left), self_check.channels(self.device)
        for height, width in self_check.SIZES:
            height = height if self.kernel[0] > 1 else 1
            shapes = ((batch, height, width, d), (K, d, *self.kernel), (K, d), (batch, K, height, width, d))
            tensors = [torch.randn(shape, generator=random, device='cpu', dtype=torch.float32) for shape in shapes]
            dtypes = (*self.dtypes, self.dtypes[0])
            yield [t.to(dtype) if dtype else None for t, dtype in zip(tensors, dtypes)]

    def results(self, forward: Callable, backward: Callable, tensors: list[Any]) -> dict[str, Tensor]:
        *inputs, grad = tensors
        left = list(self.left)
        grads = zip(('dx', 'dweight', 'dbias'), backward(grad, *inputs, left))
        return dict(y=forward(*inputs, left)) | {name: grad for name, grad in grads if grad is not None}

    def __str__(self) -> str:
        return f'the convolution on {self_check.device_and_dtypes(self)} and {self.kernel[0]}x{self.kernel[1]} taps'
