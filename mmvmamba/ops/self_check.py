"""A kernel's first run on a device is on a small map, compared with plain PyTorch before anything else is believed.

Kernels meet devices, drivers and compilers that nobody has run them on. What is wrong there shows in the first map, as
an error of the compiler, a launch that fails or a wrong value, and is found once per process and kind of use, before
training or a result depends on it.
"""

import functools
import logging
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from . import blocked, torch_conv
from .scan_inputs import ScanInputs
from .traversal import CROSS, traversal_codes

ENABLED = os.environ.get('MMVMAMBA_SELF_CHECK') != '0'
SIZES = ((2, 7), (5, 9))  # walked from end to end by one program, and in three chunks or more by as many
BATCH, RANK = 2, 4
CHANNELS = 48  # one and a half warps
CHANNELS_ON_CPU = 3  # for Triton's interpreter, which takes seconds
TF32_EPS = 2**-10  # in which a GPU may multiply float32 matrices, here those of a low-rank dt


class Use(NamedTuple):
    """What a kernel is compiled for: a new one is a kernel that has not been seen to work.

    Attributes:
        device: where it runs.
        dtypes: of the eight tensors of a scan, None for those that are not given.
        states: n.
        is_shared: whether all traversals walk one map.
        dt_softplus: as in `mmvmamba.ops.selective_scan_2d`.
    """

    device: torch.device
    dtypes: tuple[torch.dtype | None, ...]
    states: int
    is_shared: bool
    dt_softplus: bool

    @classmethod
    def of(cls, inputs: ScanInputs) -> 'Use':
        dtypes = tuple(None if t is None else t.dtype for t in inputs.tensors)
        return cls(inputs.x.device, dtypes, inputs.A.shape[-1], inputs.x.dim() == 4, inputs.dt_softplus)

    reference = (blocked.selective_scan_2d, blocked.selective_scan_2d_backward)

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


class ConvUse(NamedTuple):
    """What a kernel of the depthwise convolution is compiled for.

    Attributes:
        device: where it runs.
        dtypes: of x, weight and bias, None for a bias that is not given.
        kernel: rows and columns.
        left: as in `mmvmamba.ops.depthwise_conv`.
    """

    device: torch.device
    dtypes: tuple[torch.dtype | None, ...]
    kernel: tuple[int, int]
    left: tuple[int, ...]

    @classmethod
    def of(cls, x: Tensor, weight: Tensor, bias: Tensor | None, left: Sequence[int]) -> 'ConvUse':
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


def _where(use: Use | ConvUse) -> str:
    types = {str(dtype).removeprefix('torch.') for dtype in use.dtypes if dtype}
    device = torch.cuda.get_device_name(use.device) if use.device.type == 'cuda' else str(use.device)
    return f'{device} with {" and ".join(sorted(types))}'


_faults: dict[tuple, str | None] = {}
_lock = threading.Lock()


def fault(name: str, forward: Callable, backward: Callable, use: Use | ConvUse) -> str | None:
    """One sentence that says why a backend is not to be believed for this use, None if it is.

    The first call for a use runs the check, except during the capture of a CUDA graph, where nothing may wait for a
    result.

    Args:
        name: of the backend.
        forward, backward: of the backend.
        use: what is going to run.
    """
    key = (forward, backward, use)
    if not ENABLED or key in _faults:
        return _faults.get(key)
    if _is_capturing(use.device):
        _say_unchecked(name)
        return None
    with _lock:
        if key not in _faults:
            _faults[key] = _find_fault(name, forward, backward, use)
    return _faults[key]


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


def _find_fault(name: str, forward: Callable, backward: Callable, use: Use | ConvUse) -> str | None:
    try:
        found = errors(forward, backward, use)
    except torch.cuda.OutOfMemoryError:  # says nothing about the kernel
        raise
    except Exception as error:  # of a compiler, a driver or a launch, each with types of its own
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        what = f'{type(error).__name__}: {" ... ".join(dict.fromkeys(lines[:1] + lines[-1:]))}'
    else:
        wrong = {result: error for result, error in found.items() if not error <= use.tolerance}  # NaN is wrong
        if not wrong:
            return None
        what = ', '.join(f'{result} is off by {error:.1g}' for result, error in wrong.items())
        what += f' of its largest value, where {use.tolerance:.1g} is allowed'
    return (
        f'{name} failed its first check on {use}, {what}; please report this line, together with what '
        '`python -m mmvmamba` prints.'
    )


def errors(forward: Callable, backward: Callable, use: Use | ConvUse) -> dict[str, float]:
    """The largest error of y and of each gradient on the small maps, as a part of the largest value.

    Plain PyTorch runs on the CPU in float64: nothing of the device is in both results.
    """
    parts = {}
    with torch.no_grad(), torch.autocast(use.device.type, enabled=False):
        for tensors in use.small_maps():
            exact = use.results(*use.reference, [None if t is None else t.double() for t in tensors])
            found = use.results(forward, backward, [None if t is None else t.to(use.device) for t in tensors])
            for name, result in found.items():
                error = (result.cpu().double() - exact[name]).abs().max()
                parts.setdefault(name, []).append(error / exact[name].abs().max())
    return {name: torch.stack(of_sizes).max().item() for name, of_sizes in parts.items()}


def _small_map(use: Use, height: int, width: int) -> list[Tensor | None]:
    """The eight tensors of a scan, and a gradient of y, on the CPU; always the same, from a generator of their own.

    y and its gradient are in float32, as in the networks.
    """
    random = torch.Generator('cpu').manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random, device='cpu', dtype=torch.float32)

    K, d, n = len(CROSS), CHANNELS_ON_CPU if use.device.type == 'cpu' else CHANNELS, use.states
    maps = (BATCH, K, height, width)
    dt = normal(*maps, d if use.dtypes[-1] is None else RANK)
    tensors = (
        normal(BATCH, height, width, d) if use.is_shared else normal(*maps, d),
        dt if use.dt_softplus else dt.abs(),  # no softplus: the steps themselves have to be positive
        -normal(K, d, n).abs() - 0.1,
        normal(*maps, n),
        normal(*maps, n),
        normal(K, d),
        normal(K, d).abs() - (1 if use.dt_softplus else 0),
        normal(K, d, RANK).abs() / 4,
    )
    rounded = [t.to(dtype) if dtype else None for t, dtype in zip(tensors, use.dtypes)]
    return [*rounded, normal(BATCH, height, width, d)]
