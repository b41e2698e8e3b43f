"""Loads the kernels and hands them pointers and strides: `scan_args` of scan.h, packed field by field."""

import ctypes
import struct
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from .heap import keep_freed_memory

_DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
_ARGS = struct.Struct('54q')
_OBJECT = Path(__file__).with_name('_scan.so')


_keep_freed_memory = cache(keep_freed_memory)  # once, at the first scan: asking changes nothing


@cache
def _load() -> tuple[ctypes.CDLL | None, str | None]:
    if not _OBJECT.exists():
        return None, (
            f'The native scan is not built: {_OBJECT.name} is missing beside {__name__}; '
            'install mmvmamba from source with a C compiler (gcc or clang) on the path.'
        )
    try:
        library = ctypes.CDLL(str(_OBJECT))  # torch is imported, so this shares its OpenMP runtime
        library.scan_isa.restype = ctypes.c_char_p
        library.scan_args_size.restype = ctypes.c_int64
        for function in (library.scan_forward, library.scan_backward):
            function.argtypes = [ctypes.c_char_p]
        if library.scan_args_size() != _ARGS.size:
            return None, f'The native scan {_OBJECT.name} was built from other sources; build it again.'
    except (OSError, AttributeError) as error:
        return None, f'The native scan {_OBJECT.name} does not load: {error}.'
    return library, None


def unavailable_reason() -> str | None:
    """None if the kernels can run, else one sentence that says why not."""
    return _load()[1]


def info() -> str:
    """The instruction set picked and the number of threads, for diagnostics."""
    library, reason = _load()
    return reason or f'{library.scan_isa().decode()}, {torch.get_num_threads()} threads'


def _padded(d: int) -> int:
    return (d + 15) // 16 * 16


def _map(t: Tensor) -> Tensor:
    return t if t.stride(-1) == 1 or t.shape[-1] == 1 else t.contiguous()


def _float_map(t: Tensor) -> Tensor:
    return _map(t.to(torch.float32))


def _parameter(t: Tensor | None) -> Tensor | None:
    return None if t is None else t.to(torch.float32).contiguous()


def _map_fields(t: Tensor | None) -> tuple[int, ...]:
    """Pointer, dtype and the strides of batch, traversal, row and column."""
    if t is None:
        return (0,) * 6
    stride = t.stride()
    return t.data_ptr(), _DTYPES[t.dtype], stride[0], 0 if len(stride) == 4 else stride[1], stride[-3], stride[-2]


def _pointer(t: Tensor | None) -> int:
    return 0 if t is None else t.data_ptr()


def _call(
    name: str,
    inputs: tuple[Tensor | None, ...],
    grad_y: Tensor | None,
    traversals: list[int],
    dt_softplus: bool,
    outputs: tuple[Tensor | None, ...],
) -> None:
    x, dt, A, B, C, D, dt_bias, dt_weight = inputs
    library, reason = _load()
    if library is None:
        raise RuntimeError(reason)
    _keep_freed_memory()
    x, dt, B, C = _map(x), _map(dt) if dt_weight is None else _float_map(dt), _float_map(B), _float_map(C)
    grad_y = None if grad_y is None else _map(grad_y)
    A, D, dt_bias, dt_weight = parameters = [_parameter(t) for t in (A, D, dt_bias, dt_weight)]
    codes = (ctypes.c_int64 * len(traversals))(*traversals)
    rank = 0 if dt_weight is None else dt_weight.shape[-1]
    maps = (field for t in (x, dt, B, C, grad_y) for field in _map_fields(t))
    args = _ARGS.pack(
        x.shape[0],
        *x.shape[-3:],
        A.shape[-1],
        rank,
        len(traversals),
        x.dim() == 4,
        dt_softplus,
        torch.get_num_threads(),
        ctypes.addressof(codes),
        *maps,
        *map(_pointer, parameters),
        *map(_pointer, outputs),
    )
    if getattr(library, name)(args):
        raise MemoryError('The native scan ran out of memory for its scratch.')


def selective_scan_2d(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    dt_bias: Tensor | None,
    dt_weight: Tensor | None,
    traversals: list[int],
    dt_softplus: bool,
    out_dtype: torch.dtype,
) -> Tensor:
    """y (b, H, W, d) of `mmvmamba.ops.selective_scan_2d`; maps in float32, bfloat16 or float16, any strides."""
    b, height, width, d = x.shape[0], *x.shape[-3:]
    if not all(t.numel() for t in (x, dt, A, B)):
        return x.new_zeros(b, height, width, d, dtype=out_dtype)
    y = torch.empty(b, height, width, _padded(d), dtype=torch.float32)
    _call('scan_forward', (x, dt, A, B, C, D, dt_bias, dt_weight), None, traversals, dt_softplus, (y,) + (None,) * 8)
    return y[..., :d].to(out_dtype).contiguous()


def selective_scan_2d_backward(
    grad_y: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    dt_bias: Tensor | None,
    dt_weight: Tensor | None,
    traversals: list[int],
    dt_softplus: bool,
) -> tuple[Tensor | None, ...]:
    """Gradients of (x, dt, A, B, C, D, dt_bias, dt_weight) in their dtypes and shapes; None where the input is None."""
    inputs = (x, dt, A, B, C, D, dt_bias, dt_weight)
    if not all(t.numel() for t in (x, dt, A, B)):
        return tuple(None if t is None else t.new_zeros(t.shape) for t in inputs)
    d, padded, count = x.shape[-1], _padded(x.shape[-1]), len(traversals)
    rank = 0 if dt_weight is None else dt_weight.shape[-1]

    def empty(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.float32)

    grad_x, grad_dt = empty(*x.shape[:-1], padded), empty(*dt.shape[:-1], rank or padded)
    grad_B, grad_C = empty(*B.shape), empty(*C.shape)
    grad_A, grad_D, grad_bias = empty(count, A.shape[-1], padded), empty(count, padded), empty(count, padded)
    grad_weight = empty(count, rank, padded)
    _call(
        'scan_backward',
        inputs,
        grad_y,
        traversals,
        dt_softplus,
        (None, grad_x, grad_dt, grad_B, grad_C, grad_A, grad_D, grad_bias, grad_weight),
    )
    grads = (
        grad_x[..., :d],
        grad_dt if rank else grad_dt[..., :d],
        grad_A[..., :d].mT,
        grad_B,
        grad_C,
        grad_D[:, :d],
        grad_bias[:, :d],
        grad_weight[..., :d].mT,
    )
    return tuple(None if t is None else g.to(t.dtype).contiguous() for g, t in zip(grads, inputs))
