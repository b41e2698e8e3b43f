"""The 2-D selective scan: what users call, and the operators that PyTorch sees.

``mmvmamba::selective_scan_2d`` and its backward are ordinary operators of PyTorch's dispatcher. CPU tensors go to the
native kernel, CUDA tensors to Triton, and whatever those cannot take (float64, no compiler, no Triton) to the two-level
PyTorch scan, so that autograd, autocast, torch.compile, torch.export and FLOP counters all see one operator.
"""

import functools
import logging
import os

import torch
from torch import Tensor

from . import blocked, mamba_ssm, native, reference, triton
from .backend import AUTO, current_backend
from .traversal import CROSS, traversal_codes


def selective_scan_2d(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_weight: Tensor | None = None,
    *,
    traversals: tuple[str, ...] = CROSS,
    dt_softplus: bool = True,
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    """Scan a channels-last map along several traversals and sum the results in place.

    For traversal k, walking t along it, with ``delta = softplus(dt + dt_bias)``:
    ``h_t = exp(delta_t A) h_{t-1} + delta_t B_t x_t`` and ``y_t += <C_t, h_t> + D x_t``. Every map stays in natural
    order.
    Source: Mamba (arXiv 2312.00752) section 3.2; VMamba (arXiv 2401.10166) section 4.2.

    Args:
        x: (b, H, W, d), one map for all traversals, or (b, K, H, W, d), one for each.
        dt: time steps before bias and softplus, (b, K, H, W, d); or (b, K, H, W, r), low-rank, together with
            `dt_weight`.
        A: (K, d, n), negative for a stable recurrence.
        B, C: (b, K, H, W, n).
        D, dt_bias: (K, d) or None.
        dt_weight: (K, d, r) or None. The backward recomputes the full dt, so nothing K maps wide is kept.
        traversals: K names out of 'row', 'column', 'row_reversed', 'column_reversed'; repeats allowed.
        dt_softplus: False takes dt + dt_bias as it is.
        out_dtype: type of the result; x's by default. Any input may be 16-bit: the state and all sums are float32
            (float64 if any input is).

    Returns:
        (b, H, W, d).

    Raises:
        ValueError: a shape, type or device that does not fit, by name.
    """
    codes = traversal_codes(traversals)
    _check(x, dt, A, B, C, D, dt_bias, dt_weight, codes)
    out_dtype = out_dtype or x.dtype
    backend = current_backend()
    if backend in _TRACEABLE:
        return _TRACEABLE[backend](x, dt, A, B, C, D, dt_bias, dt_weight, codes, dt_softplus).to(out_dtype)
    return torch.ops.mmvmamba.selective_scan_2d(x, dt, A, B, C, D, dt_bias, dt_weight, codes, dt_softplus, out_dtype)


# Backends that are differentiable as they stand: chosen by name, they take the operator's place and can be traced.
_TRACEABLE = {
    'reference': reference.selective_scan_2d,
    'blocked': blocked.selective_scan_2d,
    'mamba_ssm': mamba_ssm.selective_scan_2d,
}


def _check(x, dt, A, B, C, D, dt_bias, dt_weight, codes) -> None:
    tensors = dict(x=x, dt=dt, A=A, B=B, C=C, D=D, dt_bias=dt_bias, dt_weight=dt_weight)
    K, d, n = len(codes), x.shape[-1], A.shape[-1]
    if x.dim() not in (4, 5):
        raise ValueError(f'x must be (b, H, W, d) or (b, K, H, W, d), not {tuple(x.shape)}.')
    if 0 in x.shape[-3:]:
        raise ValueError(f'x is {tuple(x.shape)}: a map has at least one position and one channel.')
    maps = (x.shape[0], K, *x.shape[-3:-1])
    rank = d if dt_weight is None else dt.shape[-1]
    expected = dict(
        x=x.shape if x.dim() == 4 else (*maps, d),
        dt=(*maps, rank),
        A=(K, d, n),
        B=(*maps, n),
        C=(*maps, n),
        D=(K, d),
        dt_bias=(K, d),
        dt_weight=(K, d, rank),
    )
    for name, tensor in tensors.items():
        if tensor is None:
            continue
        if tuple(tensor.shape) != tuple(expected[name]):
            raise ValueError(
                f'{name} is {tuple(tensor.shape)}, but x {tuple(x.shape)} with {K} traversals and A {tuple(A.shape)} '
                f'needs {tuple(expected[name])}.'
            )
        if not tensor.is_floating_point():
            raise ValueError(f'{name} is {tensor.dtype}; the scan takes real floating-point tensors.')
        if tensor.device != x.device:
            raise ValueError(f'{name} is on {tensor.device}, x on {x.device}: move them to one device.')


_ARGUMENTS = (
    'Tensor x, Tensor dt, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? dt_bias, Tensor? dt_weight, '
    'int[] traversals, bool dt_softplus'
)
_library = torch.library.Library('mmvmamba', 'DEF')
_library.define(f'selective_scan_2d({_ARGUMENTS}, ScalarType out_dtype) -> Tensor')
_library.define(f'selective_scan_2d_backward(Tensor grad_y, {_ARGUMENTS}) -> ({", ".join(["Tensor"] * 8)})')


def _forward(x, dt, A, B, C, D, dt_bias, dt_weight, traversals, dt_softplus, out_dtype):
    inputs = (x, dt, A, B, C, D, dt_bias, dt_weight)
    kernel = _kernel(inputs)
    if kernel is blocked:
        return blocked.selective_scan_2d(*inputs, traversals, dt_softplus).to(out_dtype)
    return kernel.selective_scan_2d(*inputs, traversals, dt_softplus, out_dtype)


def _backward(grad_y, x, dt, A, B, C, D, dt_bias, dt_weight, traversals, dt_softplus):
    inputs = (x, dt, A, B, C, D, dt_bias, dt_weight)
    grads = _kernel(inputs).selective_scan_2d_backward(grad_y, *inputs, traversals, dt_softplus)
    return tuple(x.new_empty(0) if g is None else g for g in grads)  # an operator cannot return None


def _kernel(inputs):
    """The module that takes these tensors: as chosen, else native on CPU and Triton on CUDA, else the PyTorch scan."""
    device = inputs[0].device.type
    is_double = any(t is not None and t.dtype == torch.float64 for t in inputs)
    if (choice := current_backend()) != AUTO:
        interpreted = choice == 'triton' and os.environ.get('TRITON_INTERPRET') == '1'
        if is_double or not (interpreted or device == {'native': 'cpu', 'triton': 'cuda'}[choice]):
            what = 'float64' if is_double else f'{device} tensors'
            raise ValueError(
                f"The scan backend {choice!r} does not take {what}: use_backend('auto') finds one that does."
            )
        return {'native': native, 'triton': triton}[choice]
    if is_double:
        return blocked
    module = {'cpu': native, 'cuda': triton}[device]
    if reason := module.unavailable_reason():
        _say_once(f'The scan runs in plain PyTorch on {device}, slower than its kernel: {reason}')
        return blocked
    return module


@functools.cache
def _say_once(message: str) -> None:
    logging.getLogger('mmvmamba').warning(message)


for key in ('CPU', 'CUDA'):
    _library.impl('selective_scan_2d', _forward, key)
    _library.impl('selective_scan_2d_backward', _backward, key)


@torch.library.register_fake('mmvmamba::selective_scan_2d')
def _(x, dt, A, B, C, D, dt_bias, dt_weight, traversals, dt_softplus, out_dtype):
    return x.new_empty((x.shape[0], *x.shape[-3:]), dtype=out_dtype)


@torch.library.register_fake('mmvmamba::selective_scan_2d_backward')
def _(grad_y, x, dt, A, B, C, D, dt_bias, dt_weight, traversals, dt_softplus):
    return tuple(x.new_empty(0) if t is None else t.new_empty(t.shape) for t in (x, dt, A, B, C, D, dt_bias, dt_weight))


def _save_inputs(ctx, inputs, output):
    *tensors, ctx.traversals, ctx.dt_softplus, _ = inputs
    ctx.save_for_backward(*tensors)


def _differentiate(ctx, grad_y):
    inputs = ctx.saved_tensors
    grads = torch.ops.mmvmamba.selective_scan_2d_backward(grad_y, *inputs, ctx.traversals, ctx.dt_softplus)
    return (*(None if t is None else g for t, g in zip(inputs, grads)), None, None, None)


def _refuse_double_backward(ctx, *grads):
    raise RuntimeError(
        "The selective scan has no second derivative; use_backend('blocked') gives one in plain PyTorch."
    )


torch.library.register_autograd('mmvmamba::selective_scan_2d', _differentiate, setup_context=_save_inputs)
torch.library.register_autograd('mmvmamba::selective_scan_2d_backward', _refuse_double_backward)
