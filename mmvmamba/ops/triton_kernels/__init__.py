"""Triton kernels for CUDA devices. Triton is imported on first use only."""

import os
from functools import cache

import torch

from ..import_failure import import_failure, in_one_line

INTERPRETED = os.environ.get('TRITON_INTERPRET') == '1'
DEVICES = ('cuda', 'cpu') if INTERPRETED else ('cuda',)
FUSION = dict(enable_fp_fusion=True)  # option of every kernel; its default depends on the Triton version


def unavailable_reason() -> str | None:
    """Returns None if the kernels can run, else one sentence with the reason."""
    if reason := _import_failure():
        return reason
    import triton

    if tuple(int(n) for n in triton.__version__.split('.')[:2]) < (3, 3):  # no tuples in kernels
        return f'Triton {triton.__version__} is too old; PyTorch 2.7 and newer come with one that can, 3.3 or newer.'
    if INTERPRETED or torch.cuda.is_available():
        return None
    return "PyTorch sees no CUDA device (TRITON_INTERPRET=1, set at start, runs Triton's slow interpreter on the CPU)."


@cache  # every scan on a GPU calls this, and a failing import may take seconds
def _import_failure() -> str | None:
    error = import_failure('triton', 'triton.language')
    if isinstance(error, ModuleNotFoundError):
        return 'Triton is not installed; on Linux, `pip install triton` gets it.'
    return error and f'Triton is installed, but cannot be imported ({in_one_line(error)}).'
