"""Checks of the arguments of scans and convolutions."""

import torch
from torch import Tensor
from torch.autograd import forward_ad

KERNEL_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
DTYPES = (*KERNEL_DTYPES, torch.float64)
DTYPE_NAMES = ', '.join(str(dtype).removeprefix('torch.') for dtype in DTYPES)


def check_tensors(who: str, needed: dict[str, Tensor], optional: dict[str, Tensor | None]) -> None:
    """Requires dense tensors of supported dtypes on one device.

    Args:
        who: the operation, for error messages.
        needed, optional: the arguments by name; optional ones may be None.

    Raises:
        ValueError: an argument is not such a tensor. The message names it.
    """
    tensors = needed | {name: tensor for name, tensor in optional.items() if tensor is not None}
    first = next(iter(tensors))
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            check_not_proxy(who, tensor)
            raise ValueError(f'{name} must be a tensor, not {type(tensor).__name__}.')
        if tensor.layout != torch.strided:
            raise ValueError(f'{name} has the layout {tensor.layout}: it must be dense, as {name}.to_dense() is.')
        if tensor.dtype not in DTYPES:
            raise ValueError(f'{name} is {tensor.dtype}; {who} takes {DTYPE_NAMES}.')
        if tensor.device != tensors[first].device:
            raise ValueError(
                f'{name} is on {tensor.device}, {first} on {tensors[first].device}: move them to one device.'
            )


def check_not_proxy(who: str, value: object) -> None:
    """Raises ValueError while torch.fx traces: it calls functions with proxies, which have no shape."""
    if isinstance(value, torch.fx.Proxy):
        raise ValueError(
            f'torch.fx cannot trace through {who}: make it, or the module that calls it, a leaf module of the tracer '
            '(leaf_modules in torchvision, is_leaf_module in torch.fx).'
        )


def check_no_forward_mode(who: str) -> None:
    """Raises RuntimeError in forward-mode differentiation: PyTorch silently drops the tangents of custom operators."""
    if forward_ad._current_level >= 0:
        raise RuntimeError(
            f'{who} has no forward-mode derivative in a traced or exported program: differentiate the model itself.'
        )


def channels_first_hint(x: Tensor, channels: int, channel_axis: int = 1) -> str:
    """The end of an error message about the shape of x: how to move the channels last if they are in `channel_axis`."""
    # compares the channels before other sizes, because compilers guard on each size that is compared
    if x.shape[-1] == channels or x.dim() <= channel_axis + 1 or x.shape[channel_axis] != channels:
        return ''
    return f'; x has its channels in dimension {channel_axis}, x.movedim({channel_axis}, -1) has them last'


def is_autocast_on(device: str) -> bool:
    """Whether autocast is enabled for a device type. For 'meta', PyTorch's own function raises an error."""
    return device != 'meta' and torch.is_autocast_enabled(device)


def check_flag(name: str, value: object) -> None:
    """Raises ValueError unless the value is a bool."""
    if type(value) is not bool:  # comparing a tensor would fail
        raise ValueError(f'{name}={value!r} must be True or False.')
