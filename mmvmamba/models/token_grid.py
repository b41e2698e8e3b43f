"""The tokens of Vim: positions of patches and class tokens, and the absolute position embedding."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.fx.experimental.symbolic_shapes import statically_known_true

from ..checkpoint import CheckpointError

# Sizes of the images and patches of the released models, in pixels, and the patch stride of the long-sequence models
# (Vim-Ti+, Vim-S+). The patches of the other models do not overlap.
RELEASED_IMG_SIZE = 224
RELEASED_PATCH_SIZE = 16
LONG_SEQUENCE_STRIDE = 8


def patches_per_side(img_size: int, patch_size: int, patch_stride: int) -> int:
    """Returns the number of patches in a row or column of a square image."""
    return (img_size - patch_size) // patch_stride + 1


def released_sizes(pos_embed: Tensor) -> dict[str, int]:
    """Returns the arguments of `Vim` for which the position embedding of a released checkpoint is not resized.

    The embedding of a long-sequence model is identified by its size, 27 x 27. Other embeddings are assumed to have a
    patch stride of 16.
    """
    side = math.isqrt(pos_embed.shape[1])
    if side == patches_per_side(RELEASED_IMG_SIZE, RELEASED_PATCH_SIZE, LONG_SEQUENCE_STRIDE):
        return dict(patch_stride=LONG_SEQUENCE_STRIDE)
    return dict(patch_stride=RELEASED_PATCH_SIZE, img_size=RELEASED_PATCH_SIZE * side)


def class_slots(place: str, patches: int) -> tuple[int, ...]:
    """Returns the indices of the class tokens in a sequence of this many patches and the class tokens."""
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
        """The number of patches in a row."""
        return patches_per_side(self.img_size, self.patch_size, self.patch_stride)

    def class_token_positions(self, patches: int) -> tuple[int, ...]:
        """Returns the indices of the class tokens in a sequence of this many patches and the class tokens."""
        return class_slots(self.place, patches)

    def convert_pos_embed(self, pos_embed: Tensor, class_tokens: int, slot: str) -> Tensor:
        """Converts the position embedding of a checkpoint to this grid.

        Args:
            pos_embed: (1, side * side + class_tokens, C).
            class_tokens: number of class tokens in the checkpoint: 0, the number in this grid, or 1 or 2 if this grid
                has none.
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
            own_slots = self.class_token_positions(self.side**2)
        grid, class_token_embed = split_tokens(pos_embed, slots)
        grid = resize_pos_embed(grid, self.side, self.side)
        return grid if self.place == 'none' else insert_tokens(grid, class_token_embed, own_slots)

    def _check_stride(self, side: int) -> None:
        stride = LONG_SEQUENCE_STRIDE
        for size in (RELEASED_IMG_SIZE, self.img_size):
            is_long = side == patches_per_side(size, self.patch_size, stride)
            if self.patch_stride > stride and side != self.side and is_long:
                raise CheckpointError(
                    f'The position embedding of this checkpoint is a {side} x {side} grid, as of '
                    f'patch_stride={stride} at {size} pixels, but this model has patch_stride={self.patch_stride}: use '
                    f'Vim(patch_stride={stride}), or, if the checkpoint was trained on larger images, set img_size to '
                    'their size.'
                )


def insert_tokens(sequence: Tensor, tokens: Tensor, slots: tuple[int, ...]) -> Tensor:
    """Inserts tokens (1 or B, S, D) into a sequence (B, M, D) at these ascending indices of the result."""
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
    """Resizes a square grid of embeddings with bicubic interpolation: (1, side * side, D) -> (1, height * width, D)."""
    side = math.isqrt(grid.shape[1])
    # torch.jit.trace records one branch for all sizes: the interpolation, which is exact at the size of the grid
    if not torch.jit.is_tracing() and statically_known_true(height == side) and statically_known_true(width == side):
        return grid
    grid = grid.unflatten(1, (side, side)).permute(0, 3, 1, 2)
    return F.interpolate(grid, (height, width), mode='bicubic').flatten(2).transpose(1, 2)


def square_side(length: int, class_tokens: int) -> int:
    """Returns the side of the square grid in a position embedding of this length.

    Raises:
        CheckpointError: the grid is not square.
    """
    side = math.isqrt(max(length - class_tokens, 0))
    if side == 0 or side * side + class_tokens != length:
        raise CheckpointError(
            f'The position embedding of this checkpoint has {length} entries, which is not a square grid plus '
            f'{class_tokens} class tokens: use a checkpoint that was trained with square images, or reshape its '
            'pos_embed to a square grid.'
        )
    return side
