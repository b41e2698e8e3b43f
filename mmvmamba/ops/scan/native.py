"""Scans with the C kernels, which read tensors in place and pad the channels of their outputs."""

import ctypes

import torch
from torch import Tensor

from ..native.call import as_parameter, call, loaded_library, map_struct, readable_by_kernel
from ..native.library import ScanArgs
from ..native.threads import thread_count
from .scan_inputs import ScanInputs


def _float_map(t: Tensor) -> Tensor:
    return readable_by_kernel(t.to(torch.float32))


def _call(kernel: str, inputs: ScanInputs, outputs: dict[str, Tensor], grad_y: Tensor | None = None) -> None:
    x, dt, A, B, C, D, dt_bias, dt_weight, codes, dt_softplus = inputs
    # The kernels read x and a full dt, the large maps, in any dtype; B, C and a low-rank dt must be float32.
    maps = dict(
        x=readable_by_kernel(x),
        dt=readable_by_kernel(dt) if dt_weight is None else _float_map(dt),
        B=_float_map(B),
        C=_float_map(C),
    )
    if grad_y is not None:
        maps['grad_y'] = readable_by_kernel(grad_y)
    parameters = dict(A=as_parameter(A), D=as_parameter(D), bias=as_parameter(dt_bias), weight=as_parameter(dt_weight))
    codes_array = (ctypes.c_int64 * len(codes))(*codes)
    b, height, width, d = x.shape[0], *x.shape[-3:]
    arguments = ScanArgs(
        batch=b,
        height=height,
        width=width,
        channels=d,
        states=A.shape[-1],
        rank=0 if dt_weight is None else dt_weight.shape[-1],
        traversals=len(codes),
        shared_x=x.dim() == 4,
        softplus=dt_softplus,
        threads=thread_count(),
        codes=ctypes.addressof(codes_array),
        **{name: map_struct(t) for name, t in maps.items()},
        **{name: t.data_ptr() for name, t in {**parameters, **outputs}.items() if t is not None},
    )
    call(kernel, arguments)


def _padded(d: int) -> int:
    unit = loaded_library().channel_unit
    return (d + unit - 1) // unit * unit


def _transposed(t: Tensor) -> Tensor:
    """Returns a transposed copy with the default strides of its shape.

    `contiguous()` keeps other strides along dimensions of size 1, and DistributedDataParallel warns about them.
    """
    return t.mT.clone(memory_format=torch.contiguous_format)


def selective_scan_2d(inputs: ScanInputs, out_dtype: torch.dtype) -> Tensor:
    """Computes y (b, H, W, d) from maps in float32, bfloat16 or float16, with any strides."""
    x = inputs.x
    b, height, width, d = x.shape[0], *x.shape[-3:]
    if _is_empty(inputs):
        return x.new_zeros(b, height, width, d, dtype=out_dtype)
    y = torch.empty(b, height, width, _padded(d), dtype=torch.float32)
    _call('scan_forward', inputs, dict(y=y))
    return y[..., :d].to(out_dtype).contiguous()


def selective_scan_2d_backward(grad_y: Tensor, inputs: ScanInputs) -> tuple[Tensor | None, ...]:
    """Returns the gradients of the tensors in `inputs`, with their shapes and dtypes, and None for missing tensors."""
    if _is_empty(inputs):
        return tuple(None if t is None else t.new_zeros(t.shape) for t in inputs.tensors)
    x, dt, A, B, C = inputs[:5]
    d, padded, count, dt_weight = x.shape[-1], _padded(x.shape[-1]), len(inputs.codes), inputs.dt_weight
    rank = 0 if dt_weight is None else dt_weight.shape[-1]

    def empty(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.float32)

    buffers = dict(
        grad_x=empty(*x.shape[:-1], padded),
        grad_dt=empty(*dt.shape[:-1], rank or padded),
        grad_B=empty(*B.shape),
        grad_C=empty(*C.shape),
        grad_A=empty(count, A.shape[-1], padded),
        grad_D=empty(count, padded),
        grad_bias=empty(count, padded),
        grad_weight=empty(count, rank, padded),
    )
    _call('scan_backward', inputs, buffers, grad_y)
    grads = (
        buffers['grad_x'][..., :d],
        buffers['grad_dt'] if rank else buffers['grad_dt'][..., :d],
        _transposed(buffers['grad_A'][..., :d]),
        buffers['grad_B'],
        buffers['grad_C'],
        buffers['grad_D'][:, :d],
        buffers['grad_bias'][:, :d],
        _transposed(buffers['grad_weight'][..., :d]),
    )
    return tuple(None if t is None else g.to(t.dtype).contiguous() for g, t in zip(grads, inputs.tensors))


def _is_empty(inputs: ScanInputs) -> bool:
    return not all(t.numel() for t in (inputs.x, inputs.dt, inputs.A, inputs.B))
