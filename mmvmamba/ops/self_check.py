"""Verification of a kernel before its first use: on small inputs, against plain PyTorch.

Kernels run on devices, drivers and compilers on which they were never tested. A compiler error, a failing launch or a
wrong value shows on the first small map. Each process therefore verifies each compiled kernel once, before a training
or a result depends on it.
"""

import functools
import logging
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor

ENABLED = os.environ.get('MMVMAMBA_SELF_CHECK') != '0'
SIZES = ((2, 7), (5, 9))  # the Triton scan uses one program for the first, and at least three chunks for the second
BATCH = 2
CHANNELS = 48  # one and a half warps
CHANNELS_ON_CPU = 3  # for Triton's interpreter, which takes seconds
TF32_EPS = 2**-10  # a GPU may multiply float32 matrices, here those of a low-rank dt, in TF32


class Signature(Protocol):
    """Identifies a compiled kernel: each new signature is a kernel that was not verified yet. It is hashable."""

    @property
    def device(self) -> torch.device: ...

    @property
    def dtypes(self) -> tuple[torch.dtype | None, ...]:
        """Dtypes of the tensors, None for missing tensors."""
        ...

    @property
    def exact(self) -> tuple[Callable, Callable]:
        """Forward and backward in plain PyTorch."""
        ...

    def small_inputs(self) -> Iterator[list[Any]]:
        """Yields tensors (None if missing) for `results`, on the CPU and in these dtypes."""
        ...

    def results(self, forward: Callable, backward: Callable, tensors: list[Any]) -> dict[str, Tensor]:
        """The result and the gradients by name."""
        ...


def channels(device: torch.device) -> int:
    return CHANNELS_ON_CPU if device.type == 'cpu' else CHANNELS


def tolerance(signature: Signature) -> float:
    """The maximum error that rounding explains, relative to the largest value: four units in the last place."""
    return 4 * max(TF32_EPS, *(torch.finfo(dtype).eps for dtype in signature.dtypes if dtype))


def device_and_dtypes(signature: Signature) -> str:
    dtypes = {str(dtype).removeprefix('torch.') for dtype in signature.dtypes if dtype}
    device = torch.cuda.get_device_name(signature.device) if signature.device.type == 'cuda' else str(signature.device)
    return f'{device} with {" and ".join(sorted(dtypes))}'


_errors: dict[tuple, str | None] = {}
_lock = threading.Lock()


def verification_error(name: str, forward: Callable, backward: Callable, signature: Signature) -> str | None:
    """One sentence that explains why a backend must not be used for this signature, or None.

    The first call for a signature runs the check, except during the capture of a CUDA graph, which cannot wait for a
    result.

    Args:
        name: name of the backend.
        forward, backward: its functions.
        signature: the kernel that is about to run.
    """
    key = (forward, backward, signature)
    if not ENABLED or key in _errors:
        return _errors.get(key)
    if _is_capturing(signature.device):
        _warn_unchecked(name)
        return None
    with _lock:
        if key not in _errors:
            _errors[key] = _verify(name, forward, backward, signature)
    return _errors[key]


@functools.cache
def _warn_unchecked(name: str) -> None:
    logging.getLogger('mmvmamba').warning(
        f'{name} is captured in a CUDA graph unchecked: run the model once before its capture.'
    )


def _is_capturing(device: torch.device) -> bool:
    if device.type != 'cuda':
        return False
    with torch.cuda.device(device):
        return torch.cuda.is_current_stream_capturing()


def _verify(name: str, forward: Callable, backward: Callable, signature: Signature) -> str | None:
    try:
        found = errors(forward, backward, signature)
    except torch.cuda.OutOfMemoryError:  # does not concern the kernel
        raise
    except Exception as error:  # compilers, drivers and launches raise exceptions of various types
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        what = f'{type(error).__name__}: {" ... ".join(dict.fromkeys(lines[:1] + lines[-1:]))}'
    else:
        allowed = tolerance(signature)
        wrong = {result: error for result, error in found.items() if not error <= allowed}  # NaN is wrong
        if not wrong:
            return None
        what = ', '.join(f'{result} is off by {error:.1g}' for result, error in wrong.items())
        what += f' of its largest value, where {allowed:.1g} is allowed'
    return (
        f'{name} failed its first check on {signature}, {what}; please report this line, together with what '
        '`python -m mmvmamba` prints.'
    )


def errors(forward: Callable, backward: Callable, signature: Signature) -> dict[str, float]:
    """The maximum error of the result and of each gradient on the small inputs, relative to the largest value.

    Plain PyTorch runs on the CPU in float64, so the two results share no code of the device.
    """
    parts = {}
    with torch.no_grad(), torch.autocast(signature.device.type, enabled=False):
        for tensors in signature.small_inputs():
            exact = signature.results(*signature.exact, [None if t is None else t.double() for t in tensors])
            on_device = [None if t is None else t.to(signature.device) for t in tensors]
            found = signature.results(forward, backward, on_device)
            for name, result in found.items():
                error = (result.cpu().double() - exact[name]).abs().max()
                parts.setdefault(name, []).append(error / exact[name].abs().max())
    return {name: torch.stack(of_sizes).max().item() for name, of_sizes in parts.items()}
