"""Passes tensors to the C kernels."""

import ctypes

import torch
from torch import Tensor

from .heap import keep_freed_memory
from .library import SCAN_BFLOAT16, SCAN_FLOAT16, SCAN_FLOAT32, KernelLibrary, ScanMap, load

_DTYPES = {torch.float32: SCAN_FLOAT32, torch.bfloat16: SCAN_BFLOAT16, torch.float16: SCAN_FLOAT16}


def loaded_library() -> KernelLibrary:
    library, reason = load()
    if library is None:
        raise RuntimeError(reason)
    return library


def call(function: str, arguments: ctypes.Structure) -> None:
    """Calls a C function.

    Raises:
        RuntimeError: the library cannot be loaded.
        MemoryError: the kernel could not allocate its scratch memory.
    """
    library = loaded_library()
    keep_freed_memory()
    if getattr(library, function)(arguments):
        raise MemoryError(f'The native kernel {function} ran out of memory for its scratch.')


def readable_by_kernel(t: Tensor) -> Tensor:
    """Returns `t` as a map that the kernels can read: with a supported dtype and contiguous channels."""
    t = t if t.dtype in _DTYPES else t.to(torch.float32)
    return t if t.stride(-1) == 1 or t.shape[-1] == 1 else t.contiguous()


def as_parameter(t: Tensor | None) -> Tensor | None:
    return None if t is None else t.to(torch.float32).contiguous()


def map_struct(t: Tensor) -> ScanMap:
    """The C struct of a map (B, H, W, C), or (B, K, H, W, C) for K traversals."""
    stride = t.stride()
    return ScanMap(
        data=t.data_ptr(),
        dtype=_DTYPES[t.dtype],
        batch=stride[0],
        traversal=0 if len(stride) == 4 else stride[1],
        row=stride[-3],
        col=stride[-2],
    )
