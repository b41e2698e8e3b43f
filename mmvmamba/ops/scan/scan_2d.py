"""The 2-D selective scan: the public function and the operators behind it.

`mmvmamba::selective_scan_2d` and its backward are operators of PyTorch's dispatcher, so autograd, autocast,
torch.compile, torch.export and FLOP counters treat a scan as a single operator. CPU tensors are processed by the native
kernels, CUDA tensors by Triton. Tensors that these do not support (other devices, float64), and systems without a
compiler or Triton, use the chunked scan in plain PyTorch.
"""

import torch
from torch import Tensor

from ..arguments import DTYPE_NAMES, DTYPES, channels_first_hint, check_flag, check_no_forward_mode, check_tensors
from ..backend import current_backend
from ..operation import AUTO
from ..tracing import in_torch_func_transform
from .backends import SCAN
from .scan_inputs import ScanInputs
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
    """Scans a channels-last map along several traversals and adds the results.

    The scan visits the positions t of the map in the order of the traversal. With ``delta = softplus(dt + dt_bias)``,
    it computes ``h_t = exp(delta_t A) h_{t-1} + delta_t B_t x_t`` and ``y_t += <C_t, h_t> + D x_t``. For every
    traversal, the arguments and the result are indexed by the position (H, W): do not flip or transpose them.
    The inputs may be float16, bfloat16, float32 or float64. The state and all sums are float32, or float64 if any input
    is float64.
    Source: Mamba (arXiv 2312.00752) section 3.2; VMamba (arXiv 2401.10166) section 4.2.

    Shapes: b images, K traversals, H x W positions, d channels, n values in the state of a channel, rank r of dt.

    Args:
        x: (b, H, W, d), one map for all traversals, or (b, K, H, W, d), one map per traversal.
        dt: step sizes before bias and softplus, (b, K, H, W, d). With `dt_weight`, low-rank step sizes (b, K, H, W, r).
        A: (K, d, n), negative for a stable recurrence.
        B, C: (b, K, H, W, n).
        D, dt_bias: (K, d) or None.
        dt_weight: (K, d, r) or None. The backward pass recomputes the full dt instead of saving it.
        traversals: K of the names 'row', 'column', 'row_reversed' and 'column_reversed', possibly repeated. The
            default, `CROSS`, contains each of them once, in this order.
        dt_softplus: whether to apply softplus to dt + dt_bias.
        out_dtype: dtype of the result, by default that of x.

    Returns:
        (b, H, W, d).

    Raises:
        ValueError: the shape, dtype or device of an argument is wrong. The message names the argument.
    """
    codes = traversal_codes(traversals)
    _check(x, dt, A, B, C, D, dt_bias, dt_weight, codes, dt_softplus, out_dtype)
    inputs = ScanInputs(x, dt, A, B, C, D, dt_bias, dt_weight, codes, dt_softplus)
    name = current_backend()
    if name == AUTO and in_torch_func_transform():
        name = 'chunked'  # the operator does not support the transforms of torch.func
    if SCAN.runs_without_operator(name):
        return SCAN.named_or_plain_pytorch(name).forward(inputs, out_dtype or x.dtype)
    if in_torch_func_transform():
        raise ValueError(
            f'The scan backend {name!r} does not support the transforms of torch.func or forward-mode derivatives: '
            "use_backend('auto') selects one that does."
        )
    # None, because AOTInductor packages of PyTorch 2.11 pass another type than the exported one (pytorch#169157)
    return torch.ops.mmvmamba.selective_scan_2d(*inputs, None if out_dtype == x.dtype else out_dtype, name)


def _check(x, dt, A, B, C, D, dt_bias, dt_weight, codes, dt_softplus, out_dtype) -> None:
    needed, optional = dict(x=x, dt=dt, A=A, B=B, C=C), dict(D=D, dt_bias=dt_bias, dt_weight=dt_weight)
    check_tensors('the scan', needed, optional)
    check_flag('dt_softplus', dt_softplus)
    if out_dtype is not None and out_dtype not in DTYPES:
        raise ValueError(f'out_dtype is {out_dtype}; the scan returns {DTYPE_NAMES}.')
    if x.dim() not in (4, 5):
        raise ValueError(f'x must be (b, H, W, d) or (b, K, H, W, d), not {tuple(x.shape)}.')
    if A.dim() != 3:
        raise ValueError(f'A must be (K, d, n), not {tuple(A.shape)}.')
    K, d, n = len(codes), x.shape[-1], A.shape[-1]
    if hint := channels_first_hint(x, channels=A.shape[1], channel_axis=x.dim() - 3):
        raise ValueError(
            f'x must be (b, H, W, d) or (b, K, H, W, d) with d = {A.shape[1]}, as in A {tuple(A.shape)}, '
            f'not {tuple(x.shape)}{hint}.'
        )
    if 0 in x.shape[-3:]:
        raise ValueError(f'x is {tuple(x.shape)}: a map needs at least one position and one channel.')
    last = dt.shape[-1] if dt.dim() else 1  # a dt without dimensions fails the comparison of shapes below
    if n == 0 or (dt_weight is not None and last == 0):
        raise ValueError(
            f'A is {tuple(A.shape)} and dt {tuple(dt.shape)}: the state size n and the rank r must be at least 1.'
        )
    leading = (x.shape[0], K, *x.shape[-3:-1])
    rank = d if dt_weight is None else last
    expected = dict(
        x=x.shape if x.dim() == 4 else (*leading, d),
        dt=(*leading, rank),
        A=(K, d, n),
        B=(*leading, n),
        C=(*leading, n),
        D=(K, d),
        dt_bias=(K, d),
        dt_weight=(K, d, rank),
    )
    for name, tensor in (needed | optional).items():
        if tensor is not None and tuple(tensor.shape) != tuple(expected[name]):
            raise ValueError(
                f'{name} has the shape {tuple(tensor.shape)}, expected {tuple(expected[name])} for {K} traversals, '
                f'x {tuple(x.shape)}, dt {tuple(dt.shape)}, A {tuple(A.shape)} and '
                f'{"no" if dt_weight is None else "a"} dt_weight.'
            )


_ARGUMENTS = (
    'Tensor x, Tensor dt, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? dt_bias, Tensor? dt_weight, '
    'int[] codes, bool dt_softplus'
)
_BACKEND = 'str backend="auto"'
_library = torch.library.Library('mmvmamba', 'DEF')
_library.define(f'selective_scan_2d({_ARGUMENTS}, ScalarType? out_dtype, {_BACKEND}) -> Tensor')
_library.define(f'selective_scan_2d_backward(Tensor grad_y, {_ARGUMENTS}, {_BACKEND}) -> ({", ".join(["Tensor"] * 8)})')


# `selective_scan_2d` rejects transforms and forward-mode derivatives. `check_no_forward_mode` is for code that calls
# the operator directly.
def _forward(x, dt, A, B, C, D, dt_bias, dt_weight, codes, dt_softplus, out_dtype, backend=AUTO):
    check_no_forward_mode('The selective scan')
    inputs = ScanInputs(x, dt, A, B, C, D, dt_bias, dt_weight, codes, dt_softplus)
    return SCAN.select(x.device.type, inputs.dtypes, backend, inputs).forward(inputs, out_dtype or x.dtype)


def _backward(grad_y, x, dt, A, B, C, D, dt_bias, dt_weight, codes, dt_softplus, backend=AUTO):
    check_no_forward_mode('The selective scan')
    inputs = ScanInputs(x, dt, A, B, C, D, dt_bias, dt_weight, codes, dt_softplus)
    # `backend` is the setting of the forward pass; 'auto' selects the same backend for the same inputs
    chosen = SCAN.select(x.device.type, inputs.dtypes, backend, inputs)
    if torch.float64 not in inputs.dtypes and grad_y.dtype == torch.float64:
        grad_y = grad_y.float()  # only out_dtype was float64, so the scan ran in float32
    grads = chosen.backward(grad_y, inputs)
    return tuple(x.new_empty(0) if g is None else g for g in grads)  # an operator cannot return None


# One implementation for all devices: `SCAN` selects the backend.
_library.impl('selective_scan_2d', _forward, 'CompositeExplicitAutograd')
_library.impl('selective_scan_2d_backward', _backward, 'CompositeExplicitAutograd')


@torch.library.register_fake('mmvmamba::selective_scan_2d')
def _(x, dt, A, B, C, D, dt_bias, dt_weight, codes, dt_softplus, out_dtype, backend=AUTO):
    return x.new_empty((x.shape[0], *x.shape[-3:]), dtype=out_dtype or x.dtype)


@torch.library.register_fake('mmvmamba::selective_scan_2d_backward')
def _(grad_y, x, dt, A, B, C, D, dt_bias, dt_weight, codes, dt_softplus, backend=AUTO):
    return tuple(x.new_empty(0) if t is None else t.new_empty(t.shape) for t in (x, dt, A, B, C, D, dt_bias, dt_weight))


def _save_inputs(ctx, inputs, output):
    *tensors, codes, dt_softplus, out_dtype, backend = inputs
    ctx.codes, ctx.dt_softplus, ctx.backend = codes, dt_softplus, backend
    ctx.save_for_backward(*tensors)


def _differentiate(ctx, grad_y):
    inputs = ctx.saved_tensors
    grads = torch.ops.mmvmamba.selective_scan_2d_backward(grad_y, *inputs, ctx.codes, ctx.dt_softplus, ctx.backend)
    return (*(None if t is None else g for t, g in zip(inputs, grads)), None, None, None, None)


def _refuse_double_backward(ctx, *grads):
    raise RuntimeError(
        "The selective scan has no second derivative; use_backend('chunked') gives one in plain PyTorch."
    )


torch.library.register_autograd('mmvmamba::selective_scan_2d', _differentiate, setup_context=_save_inputs)
torch.library.register_autograd('mmvmamba::selective_scan_2d_backward', _refuse_double_backward)
