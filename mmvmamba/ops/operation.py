"""An operation, its backends, and the choice of the backend that runs."""

import functools
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch

from . import self_check

AUTO = 'auto'


def _always_available() -> None:
    return None


@dataclass(frozen=True)
class Backend:
    """An implementation of an operation.

    The operation defines the arguments and results of `forward` and `backward`.

    Attributes:
        name: the name that `use_backend` takes.
        devices: supported device types; None for all.
        dtypes: supported dtypes of the inputs.
        forward: computes the result.
        backward: computes the gradients.
        traceable: whether `forward` consists of differentiable PyTorch operations. If the user selects such a backend
            by name, `forward` is called directly instead of the operator registered with `torch.library`.
        unavailable_reason: returns one sentence that explains why it cannot run on this machine, or None.
        verify_on_first_use: whether to compare it with plain PyTorch before its first use, see `self_check.py`.
    """

    name: str
    devices: tuple[str, ...] | None
    dtypes: tuple[torch.dtype, ...]
    forward: Callable[..., torch.Tensor]
    backward: Callable[..., tuple[torch.Tensor | None, ...]]
    traceable: bool = False
    unavailable_reason: Callable[[], str | None] = _always_available
    verify_on_first_use: bool = False

    def unsupported_reason(self, device: str, dtypes: Iterable[torch.dtype]) -> str | None:
        """The first dtype, or else the device, that it does not support ('float64', 'cuda tensors'), or None."""
        if unsupported := [dtype for dtype in dtypes if dtype not in self.dtypes]:
            return str(unsupported[0]).removeprefix('torch.')
        return None if self.devices is None or device in self.devices else f'{device} tensors'


class Operation:
    """An operation with one or more backends.

    Attributes:
        name: its name in messages.
        signature: ``signature(inputs)`` returns the properties of the inputs that determine which compiled kernel runs,
            see `self_check.py`.
        backends: the backends by name. 'auto' selects the first that supports the inputs and can run.
        plain: the fallback, the first backend with ``devices=None``. It also runs if the user selects a backend that
            only other operations have.
    """

    def __init__(self, name: str, signature: Callable[[Any], self_check.Signature], *backends: Backend):
        self.name, self.signature = name, signature
        self.backends = {backend.name: backend for backend in backends}
        self.plain = next(backend for backend in backends if backend.devices is None)
        OPERATIONS.append(self)

    def find_backend(
        self, device: str, dtypes: Iterable[torch.dtype], name: str = AUTO, inputs: tuple | None = None
    ) -> tuple[Backend, str | None]:
        """Finds the backend that runs for these dtypes on a device of this type.

        Args:
            device: device type.
            dtypes: dtypes of all inputs.
            name: name of a backend, or 'auto'.
            inputs: inputs of the operation, for which backends are verified if necessary. None: nothing is verified.

        Returns:
            The backend, and the text of a warning or None. The text explains why plain PyTorch was selected: the device
            has no kernel, or a kernel for these dtypes is unavailable or failed its verification. If the kernels of the
            device do not support the dtypes (float64), plain PyTorch is expected, and there is no warning.

        Raises:
            ValueError: the named backend does not support the inputs.
            RuntimeError: the named backend failed its verification.
        """
        if name != AUTO:
            backend = self.named_or_plain_pytorch(name)
            if unsupported := backend.unsupported_reason(device, dtypes):
                raise ValueError(
                    f'The {self.name} backend {name!r} does not support {unsupported}: '
                    "use_backend('auto') selects one that does."
                )
            if error := self._verification_error(backend, inputs):
                raise RuntimeError(f"Run with use_backend('auto') instead: {error}")
            return backend, None
        has_kernel = any(device in (backend.devices or ()) for backend in self.backends.values())
        fallback_reason = None if has_kernel else f'there is no kernel for {device} tensors.'
        for backend in self.backends.values():
            if backend.unsupported_reason(device, dtypes) is None:
                reason = backend.unavailable_reason() or self._verification_error(backend, inputs)
                if reason is None:
                    return backend, fallback_reason if backend is self.plain else None
                fallback_reason = reason
        return self.plain, fallback_reason  # no backend supports the dtypes: let plain PyTorch raise the error

    def select(self, device: str, dtypes: Iterable[torch.dtype], name: str, inputs: tuple) -> Backend:
        """Like `find_backend`, but logs the reason of a fallback, once per reason."""
        backend, fallback_reason = self.find_backend(device, dtypes, name, inputs)
        if fallback_reason:
            _warn_once(f'The {self.name} runs in plain PyTorch on {device}, slower than a kernel: {fallback_reason}')
        return backend

    def named_or_plain_pytorch(self, name: str) -> Backend:
        """The backend of this name, or that in plain PyTorch if the operation has none of this name."""
        return self.backends.get(name) or self.plain

    def runs_without_operator(self, name: str) -> bool:
        """Whether the selected backend runs as PyTorch operations instead of this package's operator.

        Under `torch.jit.trace`, it runs inside the operator. Otherwise, the trace would contain the loop over the
        sequence, unrolled for one image size, and FLOP counters would not find the operator.
        """
        return name != AUTO and self.named_or_plain_pytorch(name).traceable and not torch.jit.is_tracing()

    def _verification_error(self, backend: Backend, inputs: tuple | None) -> str | None:
        if inputs is None or not backend.verify_on_first_use:
            return None
        return self_check.verification_error(backend.name, backend.forward, backend.backward, self.signature(inputs))


OPERATIONS: list[Operation] = []


@functools.cache
def _warn_once(message: str) -> None:
    logging.getLogger('mmvmamba').warning(message)
