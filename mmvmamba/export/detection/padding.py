"""Padding of an image on the right and at the bottom."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def pad_image(
    images: Tensor,
    size: tuple[int, int] | None = None,
    size_divisor: int | None = None,
    pad_to_square: bool = False,
    value: float | Sequence[float] = 0.0,
) -> Tensor:
    """Pads images (B, 3, H, W) as the transform Pad of mmdet.

    Args:
        images: images of any size, which can be symbolic.
        size: smallest (width, height).
        size_divisor: divisor of the height and the width.
        pad_to_square: whether to pad the shorter side to the longer one.
        value: value of the padding, for all channels or for each one.
    """
    rows, columns = images.shape[2:]
    height: Any = rows
    width: Any = columns
    if pad_to_square:
        height = width = torch.sym_max(height, width)
    if size:
        width, height = torch.sym_max(width, size[0]), torch.sym_max(height, size[1])
    if size_divisor:
        height, width = height + -height % size_divisor, width + -width % size_divisor
    values = images.new_tensor(value).reshape(-1, 1, 1)
    return F.pad(images - values, (0, width - columns, 0, height - rows)) + values
