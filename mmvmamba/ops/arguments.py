"""What the scans and the convolutions ask of their arguments."""

import torch
from torch import Tensor

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
DTYPE_NAMES = ', '.join(str(dtype).removeprefix('torch.') for dtype in DTYPES)


def check_tensors(who: str, needed: dict[str, Tensor], optional: dict[str, Tensor | None]) -> None:
    """Whether all are tensors of types that we compute with, on the device of the first.

    Args:
        who: what takes them.
        needed, optional: by name; one that is optional may be None.

    Raises:
        ValueError: one is not, by name.
    """
    tensors = needed | {name: tensor for name, tensor in optional.items() if tensor is not None}
    first = next(iter(tensors))
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise ValueError(f'{name} must be a tensor, not {type(tensor).__name__}.')
        if tensor.layout != torch.strided:
            raise ValueError(f'{name} has the layout {tensor.layout}: it must be dense, as {name}.to_dense() is.')
        if tensor.dtype not in DTYPES:
            raise ValueError(f'{name} is {tensor.dtype}; {who} takes {DTYPE_NAMES}.')
        if tensor.device != tensors[first].device:
            raise ValueError(
                f'{name} is on {tensor.device}, {first} on {tensors[first].device}: move them to one device.'
            )


def is_autocast_on(device: str) -> bool:
    """Of a device's type; PyTorch itself raises for 'meta'."""
    return device != 'meta' and torch.is_autocast_enabled(device)


def check_flag(name: str, value: object) -> None:
    if type(value) is not bool:  # of a tensor, even a comparison would fail
        raise ValueError(f'{name}={value!r} must be True or False.')
