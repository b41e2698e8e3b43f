"""Verification of a kernel before its first use: on small maps, against plain PyTorch.

Kernels run on devices, drivers and compilers that they were never tested on. A compiler error, a failing launch or a
wrong value shows up on the first map, so each process checks each signature once, before training or a result depends
on it.
"""

import functools
import logging
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .conv import torch_conv
from .scan import chunked
from .scan.scan_inputs import ScanInputs
from .scan.traversal import CROSS, traversal_codes

ENABLED = os.environ.get('MMVMAMBA_SELF_CHECK') != '0'
SIZES = ((2, 7), (5, 9))  # scanned by one program, and in three or more chunks
BATCH, RANK = 2, 4
CHANNELS = 48  # one and a half warps
CHANNELS_ON_CPU = 3  # for Triton's interpreter, which takes seconds
TF32_EPS = 2**-10  # a GPU may multiply float32 matrices, here those of a low-rank dt, in TF32


class ScanSignature(NamedTuple):
    """What a scan kernel is compiled for; each new signature is a kernel that was not verified yet.

    Attributes:
        device: the device.
        dtypes: dtypes of the eight tensors of a scan, None for those that are not given.
        states: n.
        is_shared: whether all traversals scan one map.
        dt_softplus: as in `mmvmamba.ops.selective_scan_2d`.
    """

    device: torch.device
    dtypes: tuple[torch.dtype | None, ...]
    states: int
    is_shared: bool
    dt_softplus: bool

    @classmethod
    def of(cls, inputs: ScanInputs) -> 'ScanSignature':
        dtypes = tuple(None if t is None else t.dtype for t in inputs.tensors)
        return cls(inputs.x.device, dtypes, inputs.A.shape[-1], inputs.x.dim() == 4, inputs.dt_softplus)

    reference = (chunked.selective_scan_2d, chunked.selective_scan_2d_backward)

    def small_maps(self) -> Iterator[list[Tensor | None]]:
        """The eight tensors of a scan, and a gradient of y."""
        for size in SIZES:
            yield _small_map(self, *size)

    def results(self, forward: Callable, backward: Callable, tensors: list[Tensor | None]) -> dict[str, Tensor]:
        *tensors, grad_y = tensors
        inputs = ScanInputs(*tensors, traversal_codes(CROSS), self.dt_softplus)
        y, grads = forward(inputs, grad_y.dtype), backward(grad_y, inputs)
        return dict(y=y) | {f'd{name}': grad for name, grad in zip(inputs._fields, grads) if grad is not None}

    @property
    def tolerance(self) -> float:
        return _tolerance(self.dtypes)

    def __str__(self) -> str:
        return f'the scan on {_where(self)} and N={self.states}'


class ConvSignature(NamedTuple):
    """What a kernel of the depthwise convolution is compiled for.

    Attributes:
        device: the device.
        dtypes: dtypes of x, weight and bias, None for a bias that is not given.
        kernel: rows and columns.
        left: as in `mmvmamba.ops.depthwise_conv`.
    """

    device: torch.device
    dtypes: tuple[torch.dtype | None, ...]
    kernel: tuple[int, int]
    left: tuple[int, ...]

    @classmethod
    def of(cls, x: Tensor, weight: Tensor, bias: Tensor | None, left: Sequence[int]) -> 'ConvSignature':
        dtypes = (x.dtype, weight.dtype, None if bias is None else bias.dtype)
        return cls(x.device, dtypes, tuple(weight.shape[-2:]), tuple(left))

    reference = (torch_conv.conv_silu, torch_conv.conv_silu_backward)

    def small_maps(self) -> Iterator[list[Tensor | None]]:
        """x, weight, bias and a gradient of the result."""
        random = torch.Generator('cpu').manual_seed(0)
        K, d = len(self.left), CHANNELS_ON_CPU if self.device.type == 'cpu' else CHANNELS
        for height, width in SIZES:
            height = height if self.kernel[0] > 1 else 1
            shapes = ((BATCH, height, width, d), (K, d, *self.kernel), (K, d), (BATCH, K, height, width, d))
            tensors = [torch.randn(shape, generator=random, device='cpu', dtype=torch.float32) for shape in shapes]
            dtypes = (*self.dtypes, self.dtypes[0])
            yield [t.to(dtype) if dtype else None for t, dtype in zip(tensors, dtypes)]

    def results(self, forward: Callable, backward: Callable, tensors: list[Tensor | None]) -> dict[str, Tensor]:
        *inputs, grad = tensors
        left = list(self.left)
        grads = zip(('dx', 'dweight', 'dbias'), backward(grad, *inputs, left))
        return dict(y=forward(*inputs, left)) | {name: grad for name, grad in grads if grad is not None}

    @property
    def tolerance(self) -> float:
        return _tolerance(self.dtypes)

    def __str__(self) -> str:
        return f'the convolution on {_where(self)} and {self.kernel[0]}x{self.kernel[1]} taps'


def _tolerance(dtypes: Sequence[torch.dtype | None]) -> float:
    """The largest error that rounding explains, as a part of the largest value: four units in the last place."""
    return 4 * max(TF32_EPS, *(torch.finfo(dtype).eps for dtype in dtypes if dtype))


def _where(signature: ScanSignature | ConvSignature) -> str:
    types = {str(dtype).removeprefix('torch.') for dtype in signature.dtypes if dtype}
    device = torch.cuda.get_device_name(signature.device) if signature.device.type == 'cuda' else str(signature.device)
    return f'{device} with {" and ".join(sorted(types))}'


_errors: dict[tuple, str | None] = {}
_lock = threading.Lock()


def verification_error(
    name: str, forward: Callable, backward: Callable, signature: ScanSignature | ConvSignature
) -> str | None:
    """One sentence that explains why a backend must not be used for this signature, or None.

    The first call for a signature runs the check, except during the capture of a CUDA graph, which cannot wait for a
    result.

    Args:
        name: name of the backend.
        forward, backward: its functions.
        signature: what is about to run.
    """
    key = (forward, backward, signature)
    if not ENABLED or key in _errors:
        return _errors.get(key)
    if _is_capturing(signature.device):
        _say_unchecked(name)
        return None
    with _lock:
        if key not in _errors:
            _errors[key] = _verify(name, forward, backward, signature)
    return _errors[key]


@functools.cache
def _say_unchecked(name: str) -> None:
    logging.getLogger('mmvmamba').warning(
        f'{name} goes into a CUDA graph unchecked: run the model once before its capture.'
    )


def _is_capturing(device: torch.device) -> bool:
    if device.type != 'cuda':
        return False
    with torch.cuda.device(device):
        return torch.cuda.is_current_stream_capturing()


def _verify(name: str, forward: Callable, backward: Callable, signature: ScanSignature | ConvSignature) -> str | None:
    try:
        found = errors(forward, backward, signature)
    except torch.cuda.OutOfMemoryError:  # says nothing about the kernel
        raise
    except Exception as error:  # of a compiler, a driver or a launch, each with types of its own
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        what = f'{type(error).__name__}: {" ... ".join(dict.fromkeys(lines[:1] + lines[-1:]))}'
    else:
        wrong = {result: error for result, error in found.items() if not error <= signature.tolerance}  # NaN is wrong
        if not wrong:
            return None
        what = ', '.join(f'{result} is off by {error:.1g}' for result, error in wrong.items())
        what += f' of its largest value, where {signature.tolerance:.1g} is allowed'
    return (
        f'{name} failed its first check on {signature}, {what}; please report this line, together with what '
        '`python -m mmvmamba` prints.'
    )


def errors(forward: Callable, backward: Callable, signature: ScanSignature | ConvSignature) -> dict[str, float]:
    """The largest error of y and of each gradient on the small maps, as a part of the largest value.

    Plain PyTorch runs on the CPU in float64, so the two results share nothing of the device.
    """
    parts = {}
    with torch.no_grad(), torch.autocast(signature.device.type, enabled=False):
        for tensors in signature.small_maps():
            exact = signature.results(*signature.reference, [None if t is None else t.double() for t in tensors])
            on_device = [None if t is None else t.to(signature.device) for t in tensors]
            found = signature.results(forward, backward, on_device)
            for name, result in found.items():
                error = (result.cpu().double() - exact[name]).abs().max()
                parts.setdefault(name, []).append(error / exact[name].abs().max())
    return {name: torch.stack(of_sizes).max().item() for name, of_sizes in parts.items()}


def _small_map(signature: ScanSignature, height: int, width: int) -> list[Tensor | None]:
    """The eight tensors of a scan and a gradient of y, on the CPU, always with the same values.

    y and its gradient are in float32, as in the networks.
    """
    random = torch.Generator('cpu').manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random, device='cpu', dtype=torch.float32)

    K, d, n = len(CROSS), CHANNELS_ON_CPU if signature.device.type == 'cpu' else CHANNELS, signature.states
    maps = (BATCH, K, height, width)
    dt = normal(*maps, d if signature.dtypes[-1] is None else RANK)
    tensors = (
        normal(BATCH, height, width, d) if signature.is_shared else normal(*maps, d),
        dt if signature.dt_softplus else dt.abs(),  # without softplus, the steps must be positive
        -normal(K, d, n).abs() - 0.1,
        normal(*maps, n),
        normal(*maps, n),
        normal(K, d),
        normal(K, d).abs() - (1 if signature.dt_softplus else 0),
        normal(K, d, RANK).abs() / 4,
    )
    rounded = [t.to(dtype) if dtype else None for t, dtype in zip(tensors, signature.dtypes)]
    return [*rounded, normal(BATCH, height, width, d)]
