"""Vim (Vision Mamba): a non-hierarchical backbone of bidirectional Mamba blocks on patch tokens."""

import math

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..ops.arguments import check_flag
from ..ops.backend import in_function_transform
from .backbone import Backbone, register_family
from .bimamba import BiMamba
from .layers import DropPath, PatchEmbed, RMSNorm
from .position import TokenGrid, insert_tokens, resize_pos_embed, rotary_angles, rotate, split_tokens
from .validation import (
    check_choice,
    check_count,
    check_image,
    check_layout,
    check_outputs,
    check_rate,
    linear_rates,
    resolve_arch,
)

# The released variants (Vim, arXiv 2401.09417, section 4.1); see ARCH_DEFAULTS for the other fields.
ARCHS = {
    'tiny': dict(embed_dims=192, depth=24),
    'small': dict(embed_dims=384, depth=24),
    'base': dict(embed_dims=768, depth=24),
}

ARCH_DEFAULTS = dict(d_state=16, expand=2, divide_out=True)

# The paper's ablations (section 4.4): the backward direction of a block, as in `BiMamba`.
DIRECTIONS = {
    'none': 'none',
    'random_flip': 'none',
    'alternating_blocks': 'none',
    'ssm': 'ssm',
    'ssm_conv': 'ssm_conv',
}
CLASS_TOKENS = {'middle': ('cls_token',), 'head': ('cls_token',), 'double': ('cls_token_head', 'cls_token_tail')}
POOLINGS = (*CLASS_TOKENS, 'mean', 'max')
FEATURES = ('residual', 'residual_official', 'mixer')
PRETRAINED_SLOTS = ('middle', 'head', 'official')


class VimBlock(nn.Module):
    """Pre-norm residual block without MLP. The residual stream stays in float32 for any dtype of the mixer."""

    def __init__(self, channels: int, mixer: BiMamba, drop_path: float):
        super().__init__()
        self.channels = channels
        self.norm = RMSNorm(channels)
        self.mixer = mixer
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, reverse: bool) -> tuple[Tensor, Tensor]:
        """(B, L, C) -> the output of the mixer and the new residual stream, both (B, L, C)."""
        check_layout(self, x, '(B, L, C)', self.channels)
        mixed = self.mixer(self.norm(x), reverse)
        return mixed, x + self.drop_path(mixed)


@MODELS.register_module()
@register_family
class Vim(Backbone):
    """Vim backbone: maps of one resolution for dense tasks, or a pooled feature for classification.

    Source: Vision Mamba (arXiv 2401.09417). Parameter names are those of the released checkpoints.

    Args:
        arch: `tiny`, `small` or `base`, or a dict with `embed_dims` and `depth` and optionally `d_state`
            (16), `expand` (2) and `divide_out` (True: halve the sum of the two directions).
        img_size: side in pixels of the images that the position embedding is made for. Loading a checkpoint resizes its
            embedding to this size once; for other image sizes, each forward pass interpolates it.
        patch_size: side of a patch in pixels.
        patch_stride: distance between patches in pixels: 16, or 8 in the long-sequence models (Vim-Ti+, Vim-S+).
        in_channels: channels of the input image.
        pooling: None returns maps. For classification, the class token in the `middle` of the sequence (the released
            models), at its `head`, or the mean of one at each end (`double`); without class token, the `mean` of all
            tokens, or all tokens for `TokenMaxClsHead`, which takes the maximum of their scores (`max`).
        out_indices: the blocks whose outputs are returned as maps, in ascending order; negative indices count from the
            end. Later blocks are not built.
        feature: content of a map: the `residual` stream after the block, the output of the `mixer` alone, or
            `residual_official`, the stream that the official segmentation code reads inside the next block. With a
            rotary embedding, all of these maps but that of the last block are rotated once more.
        pretrained_cls_slot: position of the class token in the checkpoint of a model without class token, whose entry
            in the position embedding is dropped: `middle` (the released files) or `head`. `official` treats the first
            entry as that of the class token, for any model, and leaves it first, as the official code does when it
            resizes an embedding; this shifts half of the grid by one token.
        bidirectionality: `ssm_conv` (the released models), or the paper's ablations: `ssm` (both directions share
            the convolution), `alternating_blocks` (every second block scans backwards), `random_flip` (training scans
            half of the batches backwards) and `none`.
        rope_grid: None, or the side of the pre-training grid (14 for 224 pixels), which enables the rotary position
            embedding. It rotates the whole stream before each block, like both rotary options of the official code.
        drop_path_rate: rate of stochastic depth of the last block; it rises linearly from 0 at the first. Without
            `pooling`, the last block is never dropped, as in the official dense code.
        frozen_stages: -1 freezes nothing, 0 the patch and position embeddings and class tokens, i > 0 these and the
            first i blocks.
        with_cp: recompute each block in the backward pass to save memory.
        init_cfg: `dict(type='Pretrained', checkpoint=FILE_OR_URL)` loads official files unchanged; None starts from
            random weights.
        pretrained: FILE_OR_URL, mmseg's short form of such an `init_cfg`.

    Raises:
        ValueError: an argument or an image is invalid; the message names it.
        CheckpointError: the weights do not fit; the message lists names and shapes.
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
        pretrained: str | None = None,
    ):
        super().__init__(init_cfg, pretrained)
        arch = resolve_arch(arch, self.archs, ('embed_dims', 'depth'), ARCH_DEFAULTS, 'embed_dims=192, depth=24')
        channels, depth = arch['embed_dims'], arch['depth']
        for name in ('embed_dims', 'depth', 'd_state', 'expand'):
            check_count(name, arch[name])
        for name, value in (('in_channels', in_channels), ('patch_size', patch_size), ('patch_stride', patch_stride)):
            check_count(name, value)
        check_choice('feature', feature, FEATURES)
        check_choice('pretrained_cls_slot', pretrained_cls_slot, PRETRAINED_SLOTS)
        check_choice('bidirectionality', bidirectionality, DIRECTIONS)
        check_rate('drop_path_rate', drop_path_rate)
        check_outputs(out_indices, depth, 'block', -depth)
        check_flag('divide_out', arch['divide_out'])
        check_flag('with_cp', with_cp)
        self.out_indices = tuple(sorted({i % depth for i in out_indices}))
        if pooling is not None:
            check_choice('pooling', pooling, POOLINGS)
            if self.out_indices != (depth - 1,) or feature != 'residual':
                raise ValueError(
                    f'pooling={pooling!r} gives one feature of the last block: leave out_indices and feature alone, '
                    'or set pooling=None for maps.'
                )
        if type(img_size) is not int or img_size < patch_size:
            raise ValueError(
                f'img_size={img_size} must be one integer, at least patch_size={patch_size}: the position embedding is '
                'a square grid, which is resized to images of any size.'
            )
        if type(frozen_stages) is not int or frozen_stages not in range(-1, depth + 1):
            raise ValueError(f'frozen_stages={frozen_stages} must be -1 (nothing) to {depth} (all blocks).')
        if rope_grid is not None and (type(rope_grid) is not int or rope_grid < 1 or channels % 4):
            raise ValueError(
                f'rope_grid={rope_grid} with embed_dims={channels}: the rotary embedding needs the side of a square '
                'pre-training grid, one positive integer (14 for 224 pixels), and a width divisible by 4.'
            )
        self.depth = depth
        self.in_channels = in_channels
        self.patch_size = patch_size
        self.pooling = pooling
        self.feature = feature
        self.pretrained_cls_slot = pretrained_cls_slot
        self.bidirectionality = bidirectionality
        self.rope_grid = rope_grid
        self.frozen_stages = frozen_stages
        self.with_cp = with_cp

        self.class_tokens = CLASS_TOKENS.get(pooling, ())
        self.grid = TokenGrid(img_size, patch_size, patch_stride, pooling if self.class_tokens else 'none')
        self.patch_embed = PatchEmbed(in_channels, channels, patch_size, patch_stride)
        for name in self.class_tokens:
            self.register_parameter(name, nn.Parameter(torch.empty(1, 1, channels)))
        self.pos_embed = nn.Parameter(torch.empty(1, self.grid.side**2 + len(self.class_tokens), channels))
        rates = linear_rates(drop_path_rate, depth)
        if pooling is None:
            rates[-1] = 0.0
        mixer = (channels, arch['d_state'], arch['expand'], DIRECTIONS[bidirectionality], arch['divide_out'])
        built = self.out_indices[-1] + 1
        self.layers = nn.ModuleList(VimBlock(channels, BiMamba(*mixer), rate) for rate in rates[:built])
        if pooling is not None:
            self.norm_f = RMSNorm(channels)
        # The classifier belongs to the head; the rotary embedding is computed for the present size, not loaded.
        absent = {
            'head.': True,
            'norm_f.': pooling is None,
            'cls_token': not self.class_tokens,
            'rope.freqs_': rope_grid is not None,
        }
        self.unexpected_ok = (
            *(name for name, is_absent in absent.items() if is_absent),
            *(f'layers.{i}.' for i in range(built, depth)),
        )
        self._reset_parameters(depth)
        self._freeze_stages()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Embeds the patches, applies the blocks and returns maps, or one pooled feature (Algorithm 1).

        Args:
            x: (B, in_channels, H, W), at least one patch high and wide.

        Returns:
            Without `pooling`, one (B, embed_dims, h, w) for each of `out_indices`, with
            h = (H - patch_size) // patch_stride + 1 and w likewise; else a tuple of one (B, embed_dims), or for 'max'
            of one (B, h * w, embed_dims).
        """
        check_image(x, self.in_channels, self.patch_size, self.patch_embed.proj)
        dtype = x.dtype
        x = self.patch_embed(x)
        height, width = x.shape[1:3]
        x = self._embed(x)  # (B, L, C), float32 at least
        rotation = self._rotation(height, width, x)

        # `checkpoint` does not support the transforms of torch.func
        recomputes = self.with_cp and torch.is_grad_enabled() and not in_function_transform()
        outs = []
        for i, (block, reverse) in enumerate(zip(self.layers, self._reversals())):
            if rotation is not None:
                x = rotate(x, *rotation)
            if recomputes:
                mixed, x = checkpoint(block, x, reverse, use_reentrant=False)
            else:
                mixed, x = block(x, reverse)
            if i in self.out_indices:
                outs.append(self._feature(mixed, x, rotation, i))
        if self.pooling is not None:
            return (self._pool(x, height * width).to(dtype),)
        return tuple(out.unflatten(1, (height, width)).permute(0, 3, 1, 2).contiguous().to(dtype) for out in outs)

    def _embed(self, x: Tensor) -> Tensor:
        """Adds the position embedding and inserts class tokens: (B, h, w, C) -> (B, L, C), float32 or wider."""
        height, width = x.shape[1:3]
        pos_embed = self.pos_embed.to(torch.promote_types(self.pos_embed.dtype, torch.float32))
        grid, slot_embed = split_tokens(pos_embed, self.grid.slots(self.grid.side**2))
        x = x.flatten(1, 2) + resize_pos_embed(grid, height, width)
        if self.class_tokens:
            tokens = torch.cat([getattr(self, name) for name in self.class_tokens], 1) + slot_embed
            x = insert_tokens(x, tokens, self.grid.slots(height * width))
        return x

    def _rotation(self, height: int, width: int, x: Tensor) -> tuple[Tensor, Tensor] | None:
        """Cosine and sine of the angles of each token; class tokens are not rotated."""
        if self.rope_grid is None:
            return None
        angles = rotary_angles(height, width, x.shape[-1], self.rope_grid, like=x)
        if slots := self.grid.slots(height * width):
            angles = insert_tokens(angles, angles.new_zeros(1, len(slots), x.shape[-1]), slots)
        return angles.cos(), angles.sin()

    def _reversals(self) -> list[bool]:
        """Whether each block scans from the end of the sequence, if it has a single direction."""
        if self.bidirectionality == 'alternating_blocks':
            return [i % 2 == 1 for i in range(len(self.layers))]
        flips = self.bidirectionality == 'random_flip' and self.training
        return [flips and torch.rand((), device='cpu').item() < 0.5] * len(self.layers)

    def _feature(self, mixed: Tensor, x: Tensor, rotation: tuple[Tensor, Tensor] | None, i: int) -> Tensor:
        if self.feature == 'mixer':
            return mixed
        has_next = i + 1 < self.depth
        rotated_again = self.feature == 'residual_official' and rotation is not None and has_next
        return rotate(x, *rotation) if rotated_again else x

    def _pool(self, x: Tensor, patches: int) -> Tensor:
        if self.class_tokens:
            # slices, not indices: for images of any size, the slot is a symbol for a compiler
            tokens = [x[:, slot : slot + 1] for slot in self.grid.slots(patches)]
            return self.norm_f(torch.cat(tokens, 1)).mean(1)
        x = self.norm_f(x)
        return x.mean(1) if self.pooling == 'mean' else x

    def _freeze_stages(self) -> None:
        super()._freeze_stages()
        if self.frozen_stages >= 0:
            for name in ('pos_embed', *self.class_tokens):
                getattr(self, name).requires_grad_(False)

    @property
    def num_blocks(self) -> int:
        return len(self.layers)

    def layer_depth(self, name: str) -> int:
        top, *rest = name.split('.')
        if top == 'layers':
            return 1 + int(rest[0])
        return self.num_blocks + 1 if top == 'norm_f' else 0

    def _reset_parameters(self, depth: int) -> None:
        """Initialisation of the official classifier; `BiMamba` initialises what the scan reads.

        The official dense models initialise their linear layers once more, which docs/fidelity.md describes.
        """
        proj = self.patch_embed.proj
        # lecun_normal_ of timm 0.4.12, which the official code pins: it divides by the factor 0.8796 of a cut at two
        # standard deviations, but cuts at 49 of them
        nn.init.normal_(proj.weight, std=proj.weight[0].numel() ** -0.5 / 0.8796)
        nn.init.zeros_(proj.bias)
        for name in ('pos_embed', *self.class_tokens):
            nn.init.trunc_normal_(getattr(self, name), std=0.02)
        with torch.no_grad():
            for block in self.layers:  # a sum of this many branches starts with the variance of one (GPT-2)
                block.mixer.out_proj.weight.div_(math.sqrt(depth))

    def resize_checkpoint_tensors(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Resizes the position embedding of a checkpoint to the class tokens and grid of this model."""
        pos_embed = tensors.get('pos_embed')
        if pos_embed is None or pos_embed.dim() != 3 or pos_embed.shape == self.pos_embed.shape:
            return tensors
        class_tokens = sum(name.startswith('cls_token') for name in tensors)
        if self.class_tokens and class_tokens != len(self.class_tokens):
            return tensors  # other class tokens: the comparison of names and shapes reports them
        return tensors | dict(pos_embed=self.grid.fit(pos_embed, class_tokens, self.pretrained_cls_slot))

    @classmethod
    def identify_variant(cls, tensors: dict[str, Tensor]) -> dict | None:
        """Also finds the image size that leaves the position embedding unchanged; 27 x 27 is stride 8 at 224 pixels."""
        variant = super().identify_variant(tensors)
        grid = math.isqrt(tensors['pos_embed'].shape[1]) if 'pos_embed' in tensors else 14
        size = dict(patch_stride=8) if grid == 27 else dict(patch_stride=16, img_size=16 * grid)
        return variant and variant | size | dict(pooling='middle')
