"""The backend that the user selects by name, for all operations."""

import os
from contextlib import AbstractContextManager

from .operation import AUTO, OPERATIONS
from .setting import Setting
from .tracing import constant_for_compilers

ALIASES = {'blocked': 'chunked'}  # names of earlier versions

# The selected name, or the error of an unusable MMVMAMBA_SCAN.
_selected: Setting[str | Exception] = Setting('scan backend', AUTO)


def set_backend(name: str) -> None:
    """Selects the scan backend of the process.

    The environment variable `MMVMAMBA_SCAN` selects one at start. The backward pass uses the backend that was selected
    in the forward pass. `torch.compile` and `torch.export` record the one that is selected when they trace. Other
    operations run on their backend of the same name, or in plain PyTorch if they have none.

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
        backends = [backend for operation in OPERATIONS for backend in operation.backends.values()]
        if not (named := [backend for backend in backends if backend.name == name]):
            known = dict.fromkeys(backend.name for backend in backends)
            raise ValueError(f'Unknown scan backend {name!r}: choose from {", ".join((AUTO, *known))}.')
        for backend in named:
            if reason := backend.unavailable_reason():
                raise RuntimeError(f'The scan backend {name!r} cannot run here: {reason}')
    return name


@constant_for_compilers
def _selected_name() -> str | Exception:
    name = _selected.get()
    return str(name) if isinstance(name, str) else name


def select_from_environment() -> None:
    """Applies `MMVMAMBA_SCAN`. The first scan raises its errors, because importing the package must not fail."""
    if name := os.environ.get('MMVMAMBA_SCAN'):
        try:
            set_backend(name)
        except (ValueError, RuntimeError) as error:
            _selected.of_process = error
