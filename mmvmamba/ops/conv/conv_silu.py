"""The depthwise convolution of a mixer with bias and SiLU: the public functions and the operators behind them.

The operator `mmvmamba::conv_silu` computes the 3x3 convolution of a map, and the causal convolutions of a sequence,
which is a map of height 1. Kernel k computes
``z[h, w] = bias[k] + sum_ij weight[k, :, i, j] x[h + i - rows // 2, w + j - left[k]]``, with zeros around the map, and
``z sigmoid(z)``. It runs on the backend that is selected for the scan: native C on a CPU, Triton on CUDA, and PyTorch's
convolution on other devices, in float64, and if 'chunked', 'reference' or 'mamba_ssm' is selected. The backward pass
saves only the inputs and recomputes the convolution.
"""

import torch
from torch import Tensor

from ..arguments import channels_first_hint, check_no_forward_mode, check_tensors, is_autocast_on
from ..backend import current_backend
from ..operation import AUTO
from ..tracing import in_torch_func_transform
from .backends import CONV


def conv_silu_2d(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """SiLU of a depthwise 3x3 convolution with padding 1.

    Args:
        x: (B, H, W, E), with any strides; contiguous channels avoid a copy. Autocast casts x, as for PyTorch's
            convolutions, but not the weight and the bias.
        weight: (E, 1, 3, 3).
        bias: (E,) or None.

    Returns:
        (B, H, W, E), contiguous, in the dtype of x. Sums are float32, or float64 if x is float64.

    Raises:
        ValueError: the shape, dtype or device of an argument is wrong. The message names the argument.
    """
    check_tensors('the convolution', dict(x=x, weight=weight), dict(bias=bias))
    x, weight, bias, left = _as_map_2d(_autocast(x), weight, bias)
    return _conv_silu(x, weight, bias, left)[:, 0]


def conv_silu_1d(x: Tensor, weights: Tensor, biases: Tensor | None, reverse: tuple[bool, ...]) -> Tensor:
    """SiLU of K causal depthwise convolutions of one sequence.

    Args:
        x: (B, L, E), as in `conv_silu_2d`.
        weights: (K, E, taps). The last tap applies to the position itself, the others to the positions before it.
        biases: (K, E) or None.
        reverse: for each convolution, whether it reads the positions after each position instead.

    Returns:
        (B, K, L, E), contiguous, in the dtype of x.

    Raises:
        ValueError: the shape, dtype or device of an argument is wrong. The message names the argument.
    """
    check_tensors('the convolution', dict(x=x, weights=weights), dict(biases=biases))
    if not isinstance(reverse, (tuple, list)) or not reverse:
        raise ValueError(f'reverse={reverse!r} must be a tuple of bools, one for each convolution.')
    x, weight, bias, left = _as_map_1d(_autocast(x), weights, biases, reverse)
    return _conv_silu(x, weight, bias, left)[:, :, 0]


def _as_map_2d(x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None, list[int]]:
    """Validates the arguments and converts them to those of the operator."""
    _check(x, '(B, H, W, E)', 'weight', weight, '(E, 1, 3, 3)', (*x.shape[-1:], 1, 3, 3), 0)
    _check_bias(x, 'bias', bias, x.shape[-1:])
    # a transposition would give gradients with strides about which DistributedDataParallel warns
    return x, weight.squeeze(1).unsqueeze(0), None if bias is None else bias.unsqueeze(0), [1]


def _as_map_1d(
    x: Tensor, weights: Tensor, biases: Tensor | None, reverse: tuple[bool, ...]
) -> tuple[Tensor, Tensor, Tensor | None, list[int]]:
    taps, form = max(weights.shape[-1:].numel(), 1), f'(K, E, taps), with reverse={reverse}'
    _check(x, '(B, L, E)', 'weights', weights, form, (len(reverse), *x.shape[-1:], taps), 1)
    _check_bias(x, 'biases', biases, (len(reverse), *x.shape[-1:]))
    left = [0 if ahead else taps - 1 for ahead in reverse]
    return x.unsqueeze(1), _in_sequence_order(weights, reverse).unsqueeze(2), biases, left


def _in_sequence_order(weights: Tensor, reverse: tuple[bool, ...]) -> Tensor:
    """(K, E, taps) -> (K, E, taps), with the taps of reversed convolutions in the order of the sequence."""
    if not any(reverse):
        return weights
    return torch.stack([weight.flip(-1) if ahead else weight for weight, ahead in zip(weights, reverse)])


def _autocast(x: Tensor) -> Tensor:
    if not is_autocast_on(x.device.type) or x.dtype == torch.float64:
        return x
    return x.to(torch.get_autocast_dtype(x.device.type))


def _check(
    x: Tensor, x_form: str, name: str, weight: Tensor, form: str, shape: tuple[int, ...], channel_axis: int
) -> None:
    """Requires the shapes described by `x_form` and `form`. The weight has its channels in `channel_axis`."""
    if x.dim() != x_form.count(',') + 1:
        raise ValueError(f'x must be {x_form}, not {tuple(x.shape)}.')
    if weight.dim() > channel_axis and (hint := channels_first_hint(x, weight.shape[channel_axis])):
        raise ValueError(
            f'x must be {x_form} with the channels of {name} {tuple(weight.shape)}, not {tuple(x.shape)}{hint}.'
        )
    if 0 in x.shape[1:]:
        raise ValueError(f'x is {tuple(x.shape)}: a map needs at least one position and one channel.')
    if tuple(weight.shape) != shape:
        raise ValueError(f'{name} is {tuple(weight.shape)}, but x {tuple(x.shape)} needs {form}: {shape}.')
    _check_like(x, name, weight)


def _check_bias(x: Tensor, name: str, bias: Tensor | None, shape: tuple[int, ...]) -> None:
    if bias is None:
        return
    if tuple(bias.shape) != tuple(shape):
        raise ValueError(f'{name} is {tuple(bias.shape)}, but x {tuple(x.shape)} needs {tuple(shape)}.')
    _check_like(x, name, bias)


def _check_like(x: Tensor, name: str, parameter: Tensor) -> None:
    if parameter.dtype != x.dtype and not is_autocast_on(x.device.type):
        raise ValueError(
            f'{name} is {_name(parameter.dtype)}, x {_name(x.dtype)}: convert one of them, or run under torch.autocast.'
        )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix('torch.')


def _conv_silu(x: Tensor, weight: Tensor, bias: Tensor | None, left: list[int]) -> Tensor:
    name = current_backend()
    if CONV.runs_without_operator(name):
        return CONV.named_or_plain_pytorch(name).forward(x, weight, bias, left)
    if in_torch_func_transform():  # the operator has no rules for transforms
        return CONV.plain.forward(x, weight, bias, left)
    return torch.ops.mmvmamba.conv_silu(x, weight, bias, left, name)


_ARGUMENTS = 'Tensor x, Tensor weight, Tensor? bias, int[] left, str backend="auto"'
_library = torch.library.Library('mmvmamba', 'FRAGMENT')
try:
    _library.define(f'conv_silu({_ARGUMENTS}) -> Tensor')
except RuntimeError as error:
    raise ImportError(
        "This process has already loaded mmvmamba's operators from torch_ops.so: import mmvmamba before the library, "
        'or do without one of them.'
    ) from error
_library.define(f'conv_silu_backward(Tensor grad, {_ARGUMENTS}) -> (Tensor, Tensor, Tensor)')


def _forward(x, weight, bias, left, backend=AUTO):
    check_no_forward_mode('The convolution operator')
    if x.numel() == 0:  # an empty batch
        return x.new_empty((len(x), len(left), *x.shape[1:]))
    chosen = CONV.select(x.device.type, {x.dtype}, backend, (x, weight, bias, left))
    return chosen.forward(x, weight, bias, left).contiguous()


def _backward(grad, x, weight, bias, left, backend=AUTO):
    inputs = (x, weight, bias)
    check_no_forward_mode('The convolution operator')
    if x.numel() == 0:
        grads = [t if t is None else t.new_zeros(t.shape) for t in inputs]
    else:
        chosen = CONV.select(x.device.type, {x.dtype}, backend, (x, weight, bias, left))
        grads = chosen.backward(grad, x, weight, bias, left)
    return tuple(x.new_empty(0) if g is None else g for g in grads)  # an operator cannot return None


_library.impl('conv_silu', _forward, 'CompositeExplicitAutograd')
_library.impl('conv_silu_backward', _backward, 'CompositeExplicitAutograd')


@torch.library.register_fake('mmvmamba::conv_silu')
def _(x, weight, bias, left, backend=AUTO):
    return x.new_empty((x.shape[0], len(left), *x.shape[1:]))


@torch.library.register_fake('mmvmamba::conv_silu_backward')
def _(grad, x, weight, bias, left, backend=AUTO):
    return tuple(x.new_empty(0) if t is None else t.new_empty(t.shape) for t in (x, weight, bias))


def _save_inputs(ctx, inputs, output):
    *tensors, ctx.left, ctx.backend = inputs
    ctx.save_for_backward(*tensors)


def _differentiate(ctx, grad):
    inputs = ctx.saved_tensors  # activation checkpointing allows reading them only once
    grads = torch.ops.mmvmamba.conv_silu_backward(grad, *inputs, ctx.left, ctx.backend)
    return (*(None if t is None else g for t, g in zip(inputs, grads)), None, None)


def _refuse_double_backward(ctx, *grads):
    raise RuntimeError(
        "The convolution operator has no second derivative; use_backend('chunked') gives one in plain PyTorch."
    )


torch.library.register_autograd('mmvmamba::conv_silu', _differentiate, setup_context=_save_inputs)
torch.library.register_autograd('mmvmamba::conv_silu_backward', _refuse_double_backward)
