"""Which implementation of the scan runs: the fastest that can, or the one the user asked for."""

import os

from . import mamba_ssm, native, triton

AUTO = 'auto'


def _always() -> None:
    return None


# Each name with the function that says why it cannot run here (None if it can).
BACKENDS = {
    'reference': _always,
    'blocked': _always,
    'native': native.unavailable_reason,
    'triton': triton.unavailable_reason,
    'mamba_ssm': mamba_ssm.unavailable_reason,
}


class use_backend:
    """Run every scan from here on with the named backend: a call, or a context manager that puts the old choice back.

    Args:
        name: 'reference' (sequential), 'blocked' (plain PyTorch, traceable), 'native' (CPU), 'triton' (CUDA),
            'mamba_ssm' (CUDA, if installed), or 'auto': native on CPU, Triton on CUDA, else blocked. The environment
            variable ``MMVMAMBA_SCAN`` sets the choice at start.

    Raises:
        ValueError: the name is unknown.
        RuntimeError: the backend cannot run on this machine; the message says why.
    """

    current = AUTO

    def __init__(self, name: str):
        if name != AUTO:
            if name not in BACKENDS:
                raise ValueError(f'Unknown scan backend {name!r}: choose from {", ".join((AUTO, *BACKENDS))}.')
            if reason := BACKENDS[name]():
                raise RuntimeError(f'The scan backend {name!r} cannot run here: {reason}')
        self._previous = use_backend.current
        use_backend.current = name

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_) -> None:
        use_backend.current = self._previous


def current_backend() -> str:
    return use_backend.current


if 'MMVMAMBA_SCAN' in os.environ:
    use_backend(os.environ['MMVMAMBA_SCAN'])
