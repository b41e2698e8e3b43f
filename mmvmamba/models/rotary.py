"""The two-dimensional rotary position embedding of Vim."""

import torch
from torch import Tensor


def check_rope_grid(rope_grid: object, channels: int) -> None:
    if rope_grid is not None and (type(rope_grid) is not int or rope_grid < 1 or channels % 4):
        raise ValueError(
            f'rope_grid={rope_grid} with embed_dims={channels}: the rotary embedding needs the side of a square '
            'pre-training grid, one positive integer (14 for 224 pixels), and a width divisible by 4.'
        )


def rotary_angles(height: int, width: int, channels: int, grid: int, like: Tensor) -> Tensor:
    """Returns the angles of the 2-D rotary embedding, (1, height * width, channels): rows first, then columns.

    For a map of any size, positions run from 0 to `grid`, the side of the pre-training grid.
    Source: RoFormer (arXiv 2104.09864); in two dimensions as in EVA-02 (arXiv 2303.11331).
    """
    half = channels // 2
    frequencies = 10000 ** (-torch.arange(0, half, 2, device=like.device, dtype=like.dtype) / half)

    def axis(length):
        positions = torch.arange(length, device=like.device, dtype=like.dtype) / length * grid
        return torch.outer(positions, frequencies).repeat_interleave(2, 1)

    rows = axis(height)[:, None].expand(-1, width, -1)
    columns = axis(width)[None].expand(height, -1, -1)
    return torch.cat([rows, columns], -1).flatten(0, 1)[None]


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates the channel pairs (0, 1), (2, 3), ... of x (B, L, D) by angles with this cosine and sine (1, L, D)."""
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    return x * cos + torch.stack([-odd, even], -1).flatten(-2) * sin
