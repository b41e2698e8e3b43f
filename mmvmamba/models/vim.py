"""Vim (Vision Mamba): a plain backbone of bidirectional Mamba blocks on patch tokens."""

import math

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..checkpoint import CheckpointError
from .backbone import Backbone
from .bimamba import BiMamba
from .layers import DropPath, PatchEmbed, RMSNorm
from .position import (
    class_slots,
    insert_tokens,
    resize_pos_embed,
    rotary_angles,
    rotate,
    split_tokens,
    square_side,
)

# The released variants (Vim, arXiv 2401.09417, section 4.1). Fields left out: see `arch` below.
ARCHS = {
    'tiny': dict(embed_dims=192, depth=24),
    'small': dict(embed_dims=384, depth=24),
    'base': dict(embed_dims=768, depth=24),
}

ARCH_DEFAULTS = dict(d_state=16, expand=2, divide_out=True)

# The paper's ablations (section 4.4): what a block has for the backward direction, and which blocks walk backwards.
DIRECTIONS = {
    'none': 'none',
    'random_flip': 'none',
    'alternating_blocks': 'none',
    'ssm': 'ssm',
    'ssm_conv': 'ssm_conv',
}
CLASS_TOKENS = {'middle': ('cls_token',), 'head': ('cls_token',), 'double': ('cls_token_head', 'cls_token_tail')}
POOLINGS = (*CLASS_TOKENS, 'mean', 'max')
FEATURES = ('residual', 'mixer')
# Where a file has the one class token that this model lacks; the official dense code takes the first entry of any file.
PRETRAINED_SLOTS = {'middle': 'middle', 'head': 'head', 'official': 'head'}

RELEASED_SIZE = 224
LONG_SEQUENCE_STRIDE = 8


class VimBlock(nn.Module):
    """Pre-norm residual block; there is no MLP. The stream stays in float32 whatever the mixer computes in."""

    def __init__(self, channels: int, mixer: BiMamba, drop_path: float):
        super().__init__()
        self.norm = RMSNorm(channels)
        self.mixer = mixer
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, reverse: bool) -> tuple[Tensor, Tensor]:
        """(B, L, C) -> the mixer's output and the stream with it added, both (B, L, C)."""
        mixed = self.mixer(self.norm(x), reverse)
        return mixed, x + self.drop_path(mixed)


@MODELS.register_module()
class Vim(Backbone):
    """Vim backbone: maps of one resolution for dense tasks, or one pooled feature for classification.

    Source: Vision Mamba (arXiv 2401.09417). Parameter names are those of the released checkpoints.

    Args:
        arch: ``tiny``, ``small`` or ``base``, or a dict with ``embed_dims`` and ``depth`` and optionally ``d_state``
            (16), ``expand`` (2) and ``divide_out`` (True: halve the sum of the two directions).
        img_size: side in pixels of the image that the position embedding is made for. A checkpoint's embedding is
            resized to it once, on loading; that of other image sizes is interpolated in every forward pass.
        patch_size: side of a patch.
        patch_stride: distance of patches: 16, or 8 in the long-sequence models (written with a +).
        in_channels: channels of the input image.
        pooling: None gives maps. For classification: the class token in the ``middle`` of the sequence (the released
            models), at its ``head``, or one at both ends (``double``: their mean); or, without class token, the
            ``mean`` of all tokens, or all tokens for a head that takes the maximum of their scores (``max``, with
            `TokenMaxClsHead`).
        out_indices: blocks whose outputs are returned as maps, in ascending order; negative ones count from the last.
        feature: what a map shows: the ``residual`` stream after the block, or the ``mixer``'s output alone.
        pretrained_cls_slot: for a model without class token: where the file that it starts from has one, so that this
            entry of the position embedding is left out. ``middle`` (the released files), ``head``, or ``official``:
            the first entry of a file that has it in the middle. The official dense code does that; it shifts half of
            the embedding by one token.
        bidirectionality: ``ssm_conv`` (the released models), or the paper's ablations: ``ssm`` (both directions share
            the convolution), ``alternating_blocks`` (every second block walks backwards), ``random_flip`` (in
            training, half of the batches are walked backwards) and ``none``.
        rope_grid: None, or the side of the pre-training grid (14 for 224 pixels), which turns on the rotary position
            embedding. It rotates the whole stream before each block, like both rotary switches of the official code.
        drop_path_rate: stochastic depth, rising linearly to this rate over the blocks.
        frozen_stages: -1 freezes nothing, 0 the patch and position embeddings and class tokens, i > 0 these and the
            first i blocks.
        with_cp: recompute each block in the backward pass, to save memory.
        init_cfg: ``dict(type='Pretrained', checkpoint=FILE_OR_URL)`` takes official files as they are; None starts from
            random weights.

    Raises:
        ValueError: an argument that makes no sense, or an image smaller than a patch.
        CheckpointError: weights that do not fit, by name and shape.
    """

    archs = ARCHS

    def __init__(
        self,
        arch: str | dict = 'tiny',
        img_size: int = 224,
        patch_size: int = 16,
        patch_stride: int = 16,
        in_channels: int = 3,
        pooling: str | None = None,
        out_indices: tuple[int, ...] = (-1,),
        feature: str = 'residual',
        pretrained_cls_slot: str = 'middle',
        bidirectionality: str = 'ssm_conv',
        rope_grid: int | None = None,
        drop_path_rate: float = 0.0,
        frozen_stages: int = -1,
        with_cp: bool = False,
        init_cfg: dict | list | None = None,
    ):
        super().__init__(init_cfg)
        arch = _resolve_arch(arch)
        channels, depth = arch['embed_dims'], arch['depth']
        _check_choice('feature', feature, FEATURES)
        _check_choice('pretrained_cls_slot', pretrained_cls_slot, PRETRAINED_SLOTS)
        _check_choice('bidirectionality', bidirectionality, DIRECTIONS)
        if not out_indices or any(i not in range(-depth, depth) for i in out_indices):
            raise ValueError(f'out_indices={out_indices} must name blocks {-depth} to {depth - 1}.')
        self.out_indices = tuple(sorted({i % depth for i in out_indices}))
        if pooling is not None:
            _check_choice('pooling', pooling, POOLINGS)
            if self.out_indices != (depth - 1,) or feature != 'residual':
                raise ValueError(
                    f'pooling={pooling!r} gives one feature of the last block: leave out_indices and feature alone, '
                    'or set pooling=None for maps.'
                )
        if not isinstance(img_size, int) or img_size < patch_size:
            raise ValueError(
                f'img_size={img_size} must be one integer, at least patch_size={patch_size}: the position embedding is '
                'a square grid, which is resized to images of any size.'
            )
        if frozen_stages not in range(-1, depth + 1):
            raise ValueError(f'frozen_stages={frozen_stages} must be -1 (nothing) to {depth} (all blocks).')
        if rope_grid is not None and (not isinstance(rope_grid, int) or rope_grid < 1 or channels % 4):
            raise ValueError(
                f'rope_grid={rope_grid} with embed_dims={channels}: the rotary embedding needs the side of a square '
                'pre-training grid, one positive integer (14 for 224 pixels), and a width divisible by 4.'
            )
        self.img_size = img_size
        self.patch_size = patch_size
        self.patch_stride = patch_stride
        self.pooling = pooling
        self.feature = feature
        self.pretrained_cls_slot = pretrained_cls_slot
        self.bidirectionality = bidirectionality
        self.rope_grid = rope_grid
        self.frozen_stages = frozen_stages
        self.with_cp = with_cp

        self.place = pooling if pooling in CLASS_TOKENS else 'none'
        self.class_tokens = CLASS_TOKENS.get(pooling, ())
        self.patch_embed = PatchEmbed(in_channels, channels, patch_size, patch_stride)
        for name in self.class_tokens:
            self.register_parameter(name, nn.Parameter(torch.empty(1, 1, channels)))
        tokens = self._side(img_size, patch_stride) ** 2 + len(self.class_tokens)
        self.pos_embed = nn.Parameter(torch.empty(1, tokens, channels))
        rates = torch.linspace(0, drop_path_rate, depth, device='cpu').tolist()
        backward = DIRECTIONS[bidirectionality]
        self.layers = nn.ModuleList(
            VimBlock(
                channels, BiMamba(channels, arch['d_state'], arch['expand'], backward, arch['divide_out']), drop_path
            )
            for drop_path in rates
        )
        if pooling is not None:
            self.norm_f = RMSNorm(channels)
        # The classifier is the head's; a rotary embedding is computed for the size at hand, not read.
        self.absent_in_backbone = ('head.',)
        if pooling is None:
            self.absent_in_backbone += ('norm_f.',)
        if not self.class_tokens:
            self.absent_in_backbone += ('cls_token',)
        if rope_grid is not None:
            self.absent_in_backbone += ('rope.freqs_',)
        self._reset_parameters()
        self._freeze_stages()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Maps, or one feature.

        Args:
            x: (B, in_channels, H, W), any size not less than a patch.

        Returns:
            Without `pooling`, one (B, embed_dims, h, w) for each of `out_indices`, with
            h = (H - patch_size) // patch_stride + 1 and w likewise; else a tuple of one (B, embed_dims), or for 'max'
            of one (B, h * w, embed_dims).
        """
        dtype = x.dtype
        x = self.patch_embed(x)
        height, width = x.shape[1:3]
        x = self._embed_positions(x)  # (B, L, C)
        slots = class_slots(self.place, height * width)
        rotation = self._rotation(height, width, slots, x)

        flip = self.bidirectionality == 'random_flip' and self.training and torch.rand((), device='cpu').item() < 0.5
        alternate = self.bidirectionality == 'alternating_blocks'
        maps = []
        for i, block in enumerate(self.layers[: self.out_indices[-1] + 1]):
            if rotation is not None:
                x = rotate(x, *rotation)
            reverse = flip or (alternate and i % 2 == 1)
            if self.with_cp and torch.is_grad_enabled():
                mixed, x = checkpoint(block, x, reverse, use_reentrant=False)
            else:
                mixed, x = block(x, reverse)
            if self.pooling is None and i in self.out_indices:
                out = mixed if self.feature == 'mixer' else x
                maps.append(out.unflatten(1, (height, width)).permute(0, 3, 1, 2).contiguous().to(dtype))
        return tuple(maps) if self.pooling is None else (self._pool(x, slots).to(dtype),)

    def _embed_positions(self, x: Tensor) -> Tensor:
        """(B, h, w, C) -> (B, L, C), float32 at least: add the position embedding, insert the class tokens."""
        height, width = x.shape[1:3]
        pos_embed = self.pos_embed.to(torch.promote_types(self.pos_embed.dtype, torch.float32))
        own_slots = class_slots(self.place, self._side(self.img_size, self.patch_stride) ** 2)
        grid, slot_embed = split_tokens(pos_embed, own_slots) if own_slots else (pos_embed, None)
        x = x.flatten(1, 2) + resize_pos_embed(grid, height, width)
        if own_slots:
            tokens = torch.cat([getattr(self, name) for name in self.class_tokens], 1) + slot_embed
            x = insert_tokens(x, tokens, class_slots(self.place, height * width))
        return x

    def _rotation(self, height: int, width: int, slots: tuple[int, ...], x: Tensor) -> tuple[Tensor, Tensor] | None:
        """cos and sin of every token's angles; class tokens are not rotated."""
        if self.rope_grid is None:
            return None
        angles = rotary_angles(height, width, x.shape[-1], self.rope_grid, like=x)
        if slots:
            angles = insert_tokens(angles, angles.new_zeros(1, len(slots), x.shape[-1]), slots)
        return angles.cos(), angles.sin()

    def _pool(self, x: Tensor, slots: tuple[int, ...]) -> Tensor:
        if slots:
            return self.norm_f(torch.stack([x[:, slot] for slot in slots], 1)).mean(1)
        x = self.norm_f(x)
        return x.mean(1) if self.pooling == 'mean' else x

    def frozen_modules(self) -> list[nn.Module]:
        return [self.patch_embed, *self.layers[: self.frozen_stages]] if self.frozen_stages >= 0 else []

    def _freeze_stages(self) -> None:
        super()._freeze_stages()
        if self.frozen_stages >= 0:
            for name in ('pos_embed', *self.class_tokens):
                getattr(self, name).requires_grad_(False)

    @property
    def num_blocks(self) -> int:
        return len(self.layers)

    def layer_of(self, name: str) -> int:
        top, *rest = name.split('.')
        if top == 'layers':
            return 1 + int(rest[0])
        return self.num_blocks + 1 if top == 'norm_f' else 0

    def _side(self, img_size: int, stride: int) -> int:
        return (img_size - self.patch_size) // stride + 1

    def _reset_parameters(self) -> None:
        """Initialisation of the official code; that of what the scan reads is in `BiMamba`."""
        proj = self.patch_embed.proj
        # LeCun's variance, 1 / fan in, after the cut at two standard deviations, which leaves 0.8796 of them
        std = proj.weight[0].numel() ** -0.5 / 0.8796
        nn.init.trunc_normal_(proj.weight, std=std, a=-2 * std, b=2 * std)
        nn.init.zeros_(proj.bias)
        for name in ('pos_embed', *self.class_tokens):
            nn.init.trunc_normal_(getattr(self, name), std=0.02)
        with torch.no_grad():
            for block in self.layers:  # a sum of this many branches starts with the variance of one (GPT-2)
                block.mixer.out_proj.weight.div_(math.sqrt(len(self.layers)))

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args) -> None:
        """Fit the position embedding of the file to this model's class tokens and grid, then load strictly."""
        key = f'{prefix}pos_embed'
        if key in state_dict and state_dict[key].dim() == 3 and state_dict[key].shape != self.pos_embed.shape:
            names = [name for name in state_dict if name.startswith(f'{prefix}cls_token')]
            state_dict[key] = self._fit_pos_embed(state_dict[key], len(names))
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _fit_pos_embed(self, pos_embed: Tensor, class_tokens: int) -> Tensor:
        side, own_side = square_side(pos_embed.shape[1], class_tokens), self._side(self.img_size, self.patch_stride)
        stride = LONG_SEQUENCE_STRIDE
        for size in (RELEASED_SIZE, self.img_size):
            if self.patch_stride > stride and side != own_side and side == self._side(size, stride):
                raise CheckpointError(
                    f'The position embedding of this checkpoint is a {side} x {side} grid, that of '
                    f'patch_stride={stride} at {size} pixels: it needs Vim(patch_stride={stride}), this model has '
                    f'patch_stride={self.patch_stride} (if the file has that too, and was trained on larger images, '
                    'give their size as img_size).'
                )
        if class_tokens == len(self.class_tokens):
            place = self.place
        elif self.class_tokens:
            return pos_embed  # the file has other class tokens, which the check of names and shapes will tell
        else:
            place = PRETRAINED_SLOTS[self.pretrained_cls_slot] if class_tokens == 1 else 'double'
        grid, slot_embed = split_tokens(pos_embed, class_slots(place, side * side))
        grid = resize_pos_embed(grid, own_side, own_side)
        return insert_tokens(grid, slot_embed, class_slots(self.place, own_side**2)) if self.class_tokens else grid


def _resolve_arch(arch: str | dict) -> dict:
    """All fields of an architecture, checked."""
    if isinstance(arch, str):
        _check_choice('arch', arch, ARCHS)
        arch = ARCHS[arch]
    known = {'embed_dims', 'depth', *ARCH_DEFAULTS}
    if unknown := set(arch) - known:
        raise ValueError(f'Unknown field of arch: {", ".join(sorted(unknown))}. Fields are {", ".join(sorted(known))}.')
    if missing := {'embed_dims', 'depth'} - set(arch):
        raise ValueError(f'arch lacks {" and ".join(sorted(missing))}: give both, e.g. embed_dims=192, depth=24.')
    return ARCH_DEFAULTS | dict(arch)


def _check_choice(name: str, value: str, choices) -> None:
    if value not in choices:
        raise ValueError(f'{name}={value!r} must be one of {", ".join(choices)}.')
