"""Vim (Vision Mamba): a non-hierarchical backbone of bidirectional Mamba blocks on patch tokens."""

import math

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..ops.arguments import check_flag
from .activation_checkpointing import call_block
from .backbone import Backbone, register_family
from .bimamba import BiMamba
from .layers import PatchEmbed, RMSNorm
from .rotary import check_rope_grid, rotary_angles, rotate
from .token_grid import (
    RELEASED_IMG_SIZE,
    RELEASED_PATCH_SIZE,
    TokenGrid,
    insert_tokens,
    released_sizes,
    resize_pos_embed,
    split_tokens,
)
from .validation import (
    check_choice,
    check_count,
    check_image,
    check_outputs,
    check_rate,
    linear_rates,
    resolve_arch,
)
from .vim_block import VimBlock

# The released variants (Vim, arXiv 2401.09417, section 4.1); see ARCH_DEFAULTS for the other fields.
ARCHS = {
    'tiny': dict(embed_dims=192, depth=24),
    'small': dict(embed_dims=384, depth=24),
    'base': dict(embed_dims=768, depth=24),
}

ARCH_DEFAULTS = dict(d_state=16, expand=2, divide_out=True)

# The argument `backward_direction` of `BiMamba` for each value of `bidirectionality` (the ablations in section 4.4
# of the paper); `none` stands for a single direction.
BACKWARD_DIRECTION = {
    'none': 'none',
    'random_flip': 'none',
    'alternating_blocks': 'none',
    'ssm': 'ssm',
    'ssm_conv': 'ssm_conv',
}
# The names of the class tokens for each value of `pooling` that uses class tokens.
CLASS_TOKENS = {'middle': ('cls_token',), 'head': ('cls_token',), 'double': ('cls_token_head', 'cls_token_tail')}


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
        pooling: None returns maps. For classification: the class token in the `middle` of the sequence (the released
            models) or at its `head`, the mean of two class tokens at its ends (`double`), the `mean` of all tokens, or
            all tokens for `TokenMaxClsHead`, which takes the maximum of their scores (`max`).
        out_indices: the blocks whose outputs are returned as maps, in ascending order; negative indices count from the
            end. Later blocks are not built.
        feature: content of a map: the `residual` stream after the block, the output of the `mixer` alone, or
            `residual_official`, the stream as the official segmentation code returns it: after the rotary embedding at
            the start of the next block. Without `rope_grid`, and for the last block, it is the same as `residual`.
        pretrained_cls_slot: which entry in the position embedding of a checkpoint belongs to the class token. `middle`
            (the released files) and `head` apply to models without class token, which drop this entry. `official`
            takes the first entry for all models, as the official code does when it resizes an embedding. For the
            released files, `official` is wrong: it shifts half of the grid by one token.
        bidirectionality: `ssm_conv` (the released models), or an ablation of the paper: `ssm` (both directions share
            the convolution), `alternating_blocks` (every second block scans backwards), `random_flip` (training scans
            half of the batches backwards) or `none`.
        rope_grid: None, or the side of the pre-training grid (14 for 224 pixels), which enables the rotary position
            embedding. It rotates all channels of the residual stream before each block, as both rotary options of the
            official code (`if_rope`, `if_rope_residual`) do.
        drop_path_rate: rate of stochastic depth of the last block; it rises linearly from 0 at the first. Without
            `pooling`, the last block is never dropped, as in the official dense code.
        frozen_stages: -1 freezes nothing, 0 the patch and position embeddings and class tokens, i > 0 these and the
            first i blocks.
        with_cp: recompute each block in the backward pass to save memory.
        init_cfg: `dict(type='Pretrained', checkpoint=FILE_OR_URL)` loads official files unchanged, in `init_weights()`,
            which MMEngine calls before a training. None starts from random weights.
        pretrained: FILE_OR_URL, loaded at once by the constructor; for use without MMEngine.

    Raises:
        ValueError: an argument or an image is invalid; the message names it.
        CheckpointError: the weights do not fit; the message lists names and shapes.
    """

    patch_embed: PatchEmbed

    archs = ARCHS

    def __init__(
        self,
        arch: str | dict = 'tiny',
        img_size: int = RELEASED_IMG_SIZE,
        patch_size: int = RELEASED_PATCH_SIZE,
        patch_stride: int = RELEASED_PATCH_SIZE,
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
        example = 'embed_dims=192, depth=24'
        arch = resolve_arch(arch, self.archs, required=('embed_dims', 'depth'), defaults=ARCH_DEFAULTS, example=example)
        channels, depth = arch['embed_dims'], arch['depth']
        for name in ('embed_dims', 'depth', 'd_state', 'expand'):
            check_count(name, arch[name])
        for name, value in (('in_channels', in_channels), ('patch_size', patch_size), ('patch_stride', patch_stride)):
            check_count(name, value)
        check_choice('feature', feature, ('residual', 'residual_official', 'mixer'))
        check_choice('pretrained_cls_slot', pretrained_cls_slot, ('middle', 'head', 'official'))
        check_choice('bidirectionality', bidirectionality, BACKWARD_DIRECTION)
        check_rate('drop_path_rate', drop_path_rate)
        check_outputs(out_indices, depth, 'block', first=-depth)
        check_flag('divide_out', arch['divide_out'])
        check_flag('with_cp', with_cp)
        self.out_indices = tuple(sorted({i % depth for i in out_indices}))
        if pooling is not None:
            check_choice('pooling', pooling, (*CLASS_TOKENS, 'mean', 'max'))
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
        check_count('frozen_stages', frozen_stages, -1, depth)
        check_rope_grid(rope_grid, channels)
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

        self.class_tokens = CLASS_TOKENS.get(pooling or '', ())
        class_token_place = pooling if pooling in CLASS_TOKENS else 'none'
        self.grid = TokenGrid(img_size, patch_size, patch_stride, class_token_place)
        self.patch_embed = PatchEmbed(in_channels, channels, patch_size, patch_stride)
        for name in self.class_tokens:
            self.register_parameter(name, nn.Parameter(torch.empty(1, 1, channels)))
        self.pos_embed = nn.Parameter(torch.empty(1, self.grid.side**2 + len(self.class_tokens), channels))
        rates = linear_rates(drop_path_rate, depth)
        if pooling is None:
            rates[-1] = 0.0
        mixer = (channels, arch['d_state'], arch['expand'], BACKWARD_DIRECTION[bidirectionality], arch['divide_out'])
        built = self.out_indices[-1] + 1
        self.layers = nn.ModuleList(VimBlock(channels, BiMamba(*mixer), rate) for rate in rates[:built])
        if pooling is not None:
            self.norm_f = RMSNorm(channels)
        not_loaded = [f'layers.{i}.' for i in range(built, depth)]
        if pooling is None:
            not_loaded.append('norm_f.')
        if not self.class_tokens:
            not_loaded.append('cls_token')
        if rope_grid is not None:
            not_loaded.append('rope.freqs_')  # tables of angles, which this model computes in each forward pass
        self.unexpected_ok = ('head.', *not_loaded)
        self._reset_parameters(depth)
        self.finish_init()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Embeds the patches, applies the blocks and returns maps, or one pooled feature (Algorithm 1).

        Args:
            x: (B, in_channels, H, W), at least one patch high and wide.

        Returns:
            A tuple. Without `pooling`, it contains a map (B, embed_dims, h, w) for each of `out_indices`, where
            h = (H - patch_size) // patch_stride + 1, and w is computed likewise. With `pooling`, it contains a single
            tensor: (B, embed_dims), or (B, h * w, embed_dims) for 'max'.
        """
        check_image(x, self.in_channels, self.patch_size, first_layer=self.patch_embed.proj)
        dtype = x.dtype
        x = self.patch_embed(x)
        height, width = x.shape[1:3]
        x = self._embed(x)  # (B, L, C), float32 at least
        rotation = self._rotation(height, width, x)

        outs = []
        for i, (block, reverse) in enumerate(zip(self.layers, self._reversals())):
            if rotation is not None:
                x = rotate(x, *rotation)
            mixed, x = call_block(block, x, reverse, with_cp=self.with_cp)
            if i in self.out_indices:
                outs.append(self._feature(mixed, x, rotation, i))
        if self.pooling is not None:
            return (self._pool(x, height * width).to(dtype),)
        return tuple(out.unflatten(1, (height, width)).permute(0, 3, 1, 2).contiguous().to(dtype) for out in outs)

    def _embed(self, x: Tensor) -> Tensor:
        """Adds the position embedding and inserts class tokens: (B, h, w, C) -> (B, L, C), float32 or wider."""
        height, width = x.shape[1:3]
        pos_embed = self.pos_embed.to(torch.promote_types(self.pos_embed.dtype, torch.float32))
        patch_pos_embed, class_pos_embed = split_tokens(pos_embed, self.grid.class_token_positions(self.grid.side**2))
        x = x.flatten(1, 2) + resize_pos_embed(patch_pos_embed, height, width)
        if self.class_tokens:
            tokens = torch.cat([getattr(self, name) for name in self.class_tokens], 1) + class_pos_embed
            x = insert_tokens(x, tokens, self.grid.class_token_positions(height * width))
        return x

    def _rotation(self, height: int, width: int, x: Tensor) -> tuple[Tensor, Tensor] | None:
        """Cosine and sine of the angles of each token; class tokens are not rotated."""
        if self.rope_grid is None:
            return None
        angles = rotary_angles(height, width, x.shape[-1], self.rope_grid, like=x)
        if slots := self.grid.class_token_positions(height * width):
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
        if self.feature == 'residual_official' and rotation is not None and i + 1 < self.depth:
            return rotate(x, *rotation)
        return x

    def _pool(self, x: Tensor, patches: int) -> Tensor:
        if self.class_tokens:
            # Slices, not indices: in a program exported for any image size, the position is a symbolic integer, which
            # an index would replace by its value for the example image.
            tokens = [x[:, slot : slot + 1] for slot in self.grid.class_token_positions(patches)]
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
        """Initialises the parameters as the official classification model does; `BiMamba` has initialised its own.

        The official dense models initialise their linear layers once more, which docs/fidelity.md describes.
        """
        proj = self.patch_embed.proj
        # `lecun_normal_` of timm 0.4.12, which the official code pins. It divides the standard deviation by 0.8796 to
        # compensate for a truncation at two standard deviations, but truncates at the values -2 and 2. For a patch of
        # 16 x 16 x 3, these are 49 standard deviations, so nothing is truncated.
        nn.init.normal_(proj.weight, std=proj.weight[0].numel() ** -0.5 / 0.8796)
        if proj.bias is not None:
            nn.init.zeros_(proj.bias)
        for name in ('pos_embed', *self.class_tokens):
            nn.init.trunc_normal_(getattr(self, name), std=0.02)
        with torch.no_grad():
            for name, parameter in self.layers.named_parameters():
                if name.endswith('.mixer.out_proj.weight'):
                    parameter.div_(math.sqrt(depth))  # as in GPT-2: keeps the variance of the sum of all blocks

    def resize_checkpoint_tensors(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Resizes the position embedding of a checkpoint to the class tokens and grid of this model."""
        pos_embed = tensors.get('pos_embed')
        if pos_embed is None or pos_embed.dim() != 3 or pos_embed.shape == self.pos_embed.shape:
            return tensors
        num_class_tokens = sum(name.startswith('cls_token') for name in tensors)
        if self.class_tokens and num_class_tokens != len(self.class_tokens):
            return tensors  # other class tokens: the comparison of names and shapes reports them
        return tensors | dict(
            pos_embed=self.grid.convert_pos_embed(pos_embed, num_class_tokens, self.pretrained_cls_slot)
        )

    @classmethod
    def identify_variant(cls, tensors: dict[str, Tensor]) -> dict | None:
        """Returns the constructor arguments of the released variant with these tensors, or None.

        They are `arch`, the sizes for which the position embedding fits without resizing, and `pooling`, which is
        'middle' in all released files.
        """
        variant = super().identify_variant(tensors)
        if variant is None:
            return None
        sizes = released_sizes(tensors['pos_embed']) if 'pos_embed' in tensors else {}
        return {**variant, **sizes, 'pooling': 'middle'}
