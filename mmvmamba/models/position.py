"""Token positions of Vim: class token slots, absolute and rotary position embeddings."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.fx.experimental.symbolic_shapes import statically_known_true

from ..checkpoint import CheckpointError

# The released models: image size of the pre-training, and patch stride of the long-sequence models (Vim-Ti+, Vim-S+).
RELEASED_SIZE = 224
LONG_SEQUENCE_STRIDE = 8


def class_slots(place: str, patches: int) -> tuple[int, ...]:
    """Indices of the class tokens in a sequence of this many patches and the class tokens."""
    return {'none': (), 'head': (0,), 'middle': (patches // 2,), 'double': (0, patches + 1)}[place]


@dataclass(frozen=True)
class TokenGrid:
    """Positions of the patches of a square image and of the class tokens in a sequence and its position embedding.

    Args:
        img_size: side of the image in pixels.
        patch_size: side of a patch in pixels.
        patch_stride: distance between patches in pixels.
        place: position of the class tokens, as in `class_slots`.
    """

    img_size: int
    patch_size: int
    patch_stride: int
    place: str

    @property
    def side(self) -> int:
        """Patches in a row."""
        return self._side(self.img_size, self.patch_stride)

    def _side(self, img_size: int, patch_stride: int) -> int:
        return (img_size - self.patch_size) // patch_stride + 1

    def slots(self, patches: int) -> tuple[int, ...]:
        """Indices of the class tokens in a sequence of this many patches."""
        return class_slots(self.place, patches)

    def fit(self, pos_embed: Tensor, class_tokens: int, slot: str) -> Tensor:
        """Adapt the position embedding of a checkpoint to this grid.

        Args:
            pos_embed: (1, side * side + class_tokens, C).
            class_tokens: number of class tokens in the checkpoint: none, as many as in this grid, or one or two if this
                grid has none.
            slot: position of the class token to drop if this grid has none: 'middle' or 'head'. 'official' treats the
                first entry as that of the class token, for any grid, and leaves it first.

        Raises:
            CheckpointError: the embedding is not a square grid, or belongs to another patch stride.
        """
        side = square_side(pos_embed.shape[1], class_tokens)
        self._check_stride(side)
        if slot == 'official':
            slots = own_slots = tuple(range(class_tokens))
        else:
            place_in_file = {0: 'none', 1: slot}.get(class_tokens, 'double')
            slots = class_slots(place_in_file if self.place == 'none' else self.place, side**2)
            own_slots = self.slots(self.side**2)
        grid, slot_embed = split_tokens(pos_embed, slots)
        grid = resize_pos_embed(grid, self.side, self.side)
        return grid if self.place == 'none' else insert_tokens(grid, slot_embed, own_slots)

    def _check_stride(self, side: int) -> None:
        stride = LONG_SEQUENCE_STRIDE
        for size in (RELEASED_SIZE, self.img_size):
            if self.patch_stride > stride and side != self.side and side == self._side(size, stride):
                raise CheckpointError(
                    f'The position embedding of this checkpoint is a {side} x {side} grid, that of '
                    f'patch_stride={stride} at {size} pixels: it needs Vim(patch_stride={stride}), this model has '
                    f'patch_stride={self.patch_stride} (if the file has that too, and was trained on larger images, '
                    'give their size as img_size).'
                )


def insert_tokens(sequence: Tensor, tokens: Tensor, slots: tuple[int, ...]) -> Tensor:
    """Insert tokens (1 or B, S, D) into a sequence (B, M, D) at these ascending indices of the result."""
    tokens = tokens.expand(sequence.shape[0], -1, -1)
    for i, slot in enumerate(slots):
        sequence = torch.cat([sequence[:, :slot], tokens[:, i : i + 1], sequence[:, slot:]], 1)
    return sequence


def split_tokens(sequence: Tensor, slots: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """The inverse of `insert_tokens`: (B, M + S, D) -> (B, M, D) and (B, S, D)."""
    if not slots:
        return sequence, sequence[:, :0]
    rest = [index for index in range(sequence.shape[1]) if index not in slots]
    return sequence[:, rest], sequence[:, list(slots)]


def resize_pos_embed(grid: Tensor, height: int, width: int) -> Tensor:
    """Bicubic resizing of a square grid of embeddings: (1, side * side, D) -> (1, height * width, D)."""
    side = math.isqrt(grid.shape[1])
    # torch.jit.trace records one branch for all sizes: the interpolation, which is exact at the grid's own
    if not torch.jit.is_tracing() and statically_known_true(height == side) and statically_known_true(width == side):
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
    """Angles of the 2-D rotary embedding, (1, height * width, channels): first those of the row, then of the column.

    Positions run from 0 to `grid`, the side of the pre-training grid, for a map of any size.
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
    """Rotate the channel pairs (0, 1), (2, 3), ... of x (B, L, D) by angles with this cosine and sine (1, L, D)."""
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    return x * cos + torch.stack([-odd, even], -1).flatten(-2) * sin
