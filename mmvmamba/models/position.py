"""Where the tokens of a plain backbone stand: places of class tokens, absolute and rotary position embeddings."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.fx.experimental.symbolic_shapes import statically_known_true

from ..checkpoint import CheckpointError


def class_slots(place: str, patches: int) -> tuple[int, ...]:
    """Indices of the class tokens in a sequence that holds them and this many patches."""
    return {'none': (), 'head': (0,), 'middle': (patches // 2,), 'double': (0, patches + 1)}[place]


def insert_tokens(sequence: Tensor, tokens: Tensor, slots: tuple[int, ...]) -> Tensor:
    """Put tokens (1 or B, S, D) into a sequence (B, M, D), so that they have these ascending indices in the result."""
    tokens = tokens.expand(sequence.shape[0], -1, -1)
    for i, slot in enumerate(slots):
        sequence = torch.cat([sequence[:, :slot], tokens[:, i : i + 1], sequence[:, slot:]], 1)
    return sequence


def split_tokens(sequence: Tensor, slots: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """The inverse of `insert_tokens`: (B, M + S, D) -> (B, M, D) and (B, S, D)."""
    rest = [index for index in range(sequence.shape[1]) if index not in slots]
    return sequence[:, rest], sequence[:, list(slots)]


def resize_pos_embed(grid: Tensor, height: int, width: int) -> Tensor:
    """Bicubic resizing of a square grid of embeddings: (1, side * side, D) -> (1, height * width, D)."""
    side = math.isqrt(grid.shape[1])
    if statically_known_true(height == side) and statically_known_true(width == side):  # sizes may be symbols
        return grid
    grid = grid.unflatten(1, (side, side)).permute(0, 3, 1, 2)
    return F.interpolate(grid, (height, width), mode='bicubic').flatten(2).transpose(1, 2)


def square_side(length: int, class_tokens: int) -> int:
    """Side of the square grid in a position embedding of this length.

    Raises:
        CheckpointError: there is no such grid.
    """
    side = math.isqrt(max(length - class_tokens, 0))
    if side == 0 or side * side + class_tokens != length:
        raise CheckpointError(
            f'The position embedding of this checkpoint has {length} entries, which is no square grid plus '
            f'{class_tokens} class tokens: only square grids can be resized; train at a square image size, or reshape '
            'pos_embed in the file.'
        )
    return side


def rotary_angles(height: int, width: int, channels: int, grid: int, like: Tensor) -> Tensor:
    """Angles of the 2-D rotary embedding, (1, height * width, channels): the row's, then the column's.

    Positions run from 0 to `grid`, the side of the grid in pre-training, whatever the size of the map.
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
    """Rotate neighbouring channels (0, 1), (2, 3), ... of x (B, L, D) by angles given as cos and sin (1, L, D)."""
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    return x * cos + torch.stack([-odd, even], -1).flatten(-2) * sin
