"""The registry of backends of the scan and of its convolution, and the selection of the one that runs."""

import os
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch.autograd import forward_ad

from . import native, self_check
from . import triton_kernels as triton
from .arguments import DTYPES
from .conv import torch_conv
from .import_failure import import_failure
from .scan import chunked, reference
from .scan import mamba_ssm_backend as mamba_ssm
from .setting import Setting

AUTO = 'auto'
ALIASES = {'blocked': 'chunked'}  # names of earlier versions

Signature = self_check.ScanSignature | self_check.ConvSignature


def _always_available() -> None:
    return None


def _constant_for_compilers(function: Callable) -> Callable:
    """`torch.compiler.assume_constant_result`, unless the compiler cannot be imported: it imports Triton."""
    if import_failure('torch._dynamo') is None:
        return torch.compiler.assume_constant_result(function)
    return function


@dataclass(frozen=True)
class Backend:
    """An implementation of the scan and of the convolution that precedes it.

    Attributes:
        name: the name that `use_backend` takes.
        devices: supported device types; None for any.
        dtypes: supported dtypes of the inputs.
        forward: ``(inputs, out_dtype) -> y``, for `ScanInputs`.
        backward: ``(grad_y, inputs) -> gradients`` of the eight tensors. None: only for use in place of the operator.
        conv_silu, conv_silu_backward: the same for the operator of `depthwise_conv`; PyTorch's own by default.
        traceable: whether it consists of differentiable PyTorch operations. If selected by name, such a backend runs in
            place of the operator.
        unavailable_reason: returns one sentence that explains why it cannot run on this machine, or None.
        verify_on_first_use: whether to compare it with 'chunked' before its first use, see `self_check.py`.
    """

    name: str
    devices: tuple[str, ...] | None
    dtypes: tuple[torch.dtype, ...]
    forward: Callable[..., torch.Tensor]
    backward: Callable[..., tuple[torch.Tensor | None, ...]] | None = None
    conv_silu: Callable[..., torch.Tensor] = torch_conv.conv_silu
    conv_silu_backward: Callable[..., tuple[torch.Tensor | None, ...]] = torch_conv.conv_silu_backward
    traceable: bool = False
    unavailable_reason: Callable[[], str | None] = _always_available
    verify_on_first_use: bool = False

    def unsupported_reason(self, device: str, dtypes: Iterable[torch.dtype]) -> str | None:
        """The dtype or device that it does not support; None if it supports all."""
        if unsupported := [dtype for dtype in dtypes if dtype not in self.dtypes]:
            return str(unsupported[0]).removeprefix('torch.')
        return None if self.devices is None or device in self.devices else f'{device} tensors'

    def verification_error(self, signature: Signature | None) -> str | None:
        """Why its results must not be used, or None. Without a signature, nothing is computed."""
        if signature is None or not self.verify_on_first_use:
            return None
        is_conv = isinstance(signature, self_check.ConvSignature)
        functions = (self.conv_silu, self.conv_silu_backward) if is_conv else (self.forward, self.backward)
        return self_check.verification_error(self.name, *functions, signature)


# 'auto' selects the first that supports the inputs. 'chunked' supports all.
_BACKENDS = (
    Backend(
        'native',
        devices=('cpu',),
        dtypes=DTYPES[:3],
        forward=native.selective_scan_2d,
        backward=native.selective_scan_2d_backward,
        conv_silu=native.conv_silu,
        conv_silu_backward=native.conv_silu_backward,
        unavailable_reason=native.unavailable_reason,
    ),
    Backend(
        'triton',
        devices=('cuda', 'cpu') if os.environ.get('TRITON_INTERPRET') == '1' else ('cuda',),
        dtypes=DTYPES[:3],
        forward=triton.selective_scan_2d,
        backward=triton.selective_scan_2d_backward,
        conv_silu=triton.conv_silu,
        conv_silu_backward=triton.conv_silu_backward,
        unavailable_reason=triton.unavailable_reason,
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
    Backend('reference', devices=None, dtypes=DTYPES, forward=reference.selective_scan_2d, traceable=True),
    Backend(
        'mamba_ssm',
        devices=('cuda',),
        dtypes=DTYPES[:3],
        forward=mamba_ssm.selective_scan_2d,
        traceable=True,
        unavailable_reason=mamba_ssm.unavailable_reason,
    ),
)
BACKENDS = {backend.name: backend for backend in _BACKENDS}
KERNEL_DEVICES = {device for backend in _BACKENDS for device in backend.devices or ()}


# The selected name, or the error of an unusable MMVMAMBA_SCAN.
_selected: Setting[str | Exception] = Setting('scan backend', AUTO)


def set_backend(name: str) -> None:
    """Selects the scan backend of the process.

    The environment variable `MMVMAMBA_SCAN` selects one at start. The backward pass uses the backend that was selected
    in the forward pass. `torch.compile` and `torch.export` record the one that is selected when they trace.

    Args:
        name: 'reference' (sequential), 'chunked' (plain PyTorch, traceable; alias 'blocked'), 'native' (CPU), 'triton'
            (CUDA), 'mamba_ssm' (CUDA, if installed), or 'auto': native on a CPU, Triton on CUDA, else chunked.

    Raises:
        ValueError: the name is unknown.
        RuntimeError: the backend cannot run on this machine; the message explains why.
    """
    _selected.of_process = _checked(name)


class _Name(str):
    """A name whose identity tells one call of `use_backend` from another."""


class use_backend:
    """Context manager that selects a scan backend for its own thread and context; see `set_backend`.

    Calling it without `with` selects the backend for the process. This is deprecated: use `set_backend`.
    """

    def __init__(self, name: str):
        self._name, self._blocks, self._before = _checked(name), [], _selected.of_process
        self._call = _selected.of_process = _Name(self._name)

    def __enter__(self) -> None:
        if _selected.of_process is self._call:
            _selected.of_process = self._before
        block = _selected.override(self._name)
        block.__enter__()
        self._blocks.append(block)

    def __exit__(self, *error) -> None:
        self._blocks.pop().__exit__(*error)


def override_backend(name: str) -> AbstractContextManager:
    """`use_backend` for a name that is known to be usable."""
    return _selected.override(name)


def current_backend() -> str:
    """The name of the selected backend, or 'auto'.

    Raises:
        RuntimeError: `MMVMAMBA_SCAN` names a backend that is unknown or cannot run.
    """
    name = _selected_name()
    if isinstance(name, Exception):
        raise RuntimeError(f'The environment variable MMVMAMBA_SCAN is not usable: {name}') from name
    return name


def _checked(name: str) -> str:
    name = ALIASES.get(name, name)
    if name != AUTO:
        if name not in BACKENDS:
            raise ValueError(f'Unknown scan backend {name!r}: choose from {", ".join((AUTO, *BACKENDS))}.')
        if reason := BACKENDS[name].unavailable_reason():
            raise RuntimeError(f'The scan backend {name!r} cannot run here: {reason}')
    return name


# PyTorch 2.4 writes a constant result over the global with the name of the function, in the module that it compiles:
# hence two functions that no other module imports.
@_constant_for_compilers
def _selected_name() -> str | Exception:
    name = _selected.get()
    return str(name) if isinstance(name, str) else name


def choose(
    device: str, dtypes: Iterable[torch.dtype], name: str = AUTO, signature: Signature | None = None
) -> tuple[Backend, str | None]:
    """The backend that runs for these dtypes on a device of this type, and why it is a fallback.

    Args:
        device: device type.
        dtypes: dtypes of all inputs.
        name: name of a backend, or 'auto'.
        signature: what is about to run; backends that need it are verified first. None: nothing is verified.

    Returns:
        The backend, and the reason why no kernel runs, or None.

    Raises:
        ValueError: the named backend does not support the inputs.
        RuntimeError: the named backend failed its verification.
    """
    if name != AUTO:
        backend = BACKENDS[name]
        if unsupported := backend.unsupported_reason(device, dtypes):
            raise ValueError(
                f"The scan backend {name!r} does not take {unsupported}: use_backend('auto') finds one that does."
            )
        if error := backend.verification_error(signature):
            raise RuntimeError(f"Scan with use_backend('auto') instead: {error}")
        return backend, None
    fallback_reason = None if device in KERNEL_DEVICES else f'there is no kernel for {device} tensors.'
    for backend in BACKENDS.values():
        if backend.unsupported_reason(device, dtypes) is None:
            reason = backend.unavailable_reason() or backend.verification_error(signature)
            if reason is None:
                break
            fallback_reason = reason
    return backend, fallback_reason


def replaces_operator(name: str) -> bool:
    """Whether the selected backend runs as PyTorch operations in place of this package's operator.

    Under `torch.jit.trace` it does not: the trace would contain the steps of one size, and FLOP counters would not find
    the scan.
    """
    return name != AUTO and BACKENDS[name].traceable and not torch.jit.is_tracing()


def in_function_transform() -> bool:
    """Whether this runs, or is compiled, within a transform of `torch.func` or with forward-mode derivatives."""
    return _transforms_are_active()


@_constant_for_compilers
def _transforms_are_active() -> bool:
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


if name := os.environ.get('MMVMAMBA_SCAN'):
    try:
        set_backend(name)
    except (ValueError, RuntimeError) as error:  # raised by the first scan: importing the package must not fail
        _selected.of_process = error
