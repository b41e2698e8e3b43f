"""VMamba: a hierarchical backbone of SS2D blocks.

The first generation, the `vanilla_*` entries of `ARCHS`, has gates and no MLPs. The current generation, all other
entries, has MLPs and no gates.
"""

import re
from collections.abc import Iterable

from mmengine.registry import MODELS
from torch import Tensor, nn

from ..ops import BIDIRECTIONAL, CROSS, TRAVERSALS, UNIDIRECTIONAL
from ..ops.arguments import check_flag
from .activation_checkpointing import call_block
from .backbone import Backbone, register_family
from .downsampling import DOWNSAMPLES, STEMS
from .layers import in_channels_last_format
from .ss2d import SS2D
from .validation import (
    check_choice,
    check_count,
    check_image,
    check_outputs,
    check_rate,
    check_ratio,
    linear_rates,
    resolve_arch,
)
from .vss_block import VSSBlock

_VANILLA = dict(ssm_ratio=2.0, d_state=16, mlp_ratio=0.0, gate=True, conv_bias=True, stem='patch', downsample='merging')

# All released variants (VMamba, arXiv 2401.10166, and its repository's tables); see ARCH_DEFAULTS for the other fields.
# In a name, s2l5 stands for ssm_ratio=2.0 and 5 blocks in the third stage.
ARCHS = {
    'vanilla_tiny': dict(dims=96, depths=(2, 2, 9, 2), **_VANILLA),
    'vanilla_small': dict(dims=96, depths=(2, 2, 27, 2), **_VANILLA),
    'vanilla_base': dict(dims=128, depths=(2, 2, 27, 2), **_VANILLA),
    'tiny_s2l5': dict(dims=96, depths=(2, 2, 5, 2), ssm_ratio=2.0),
    'tiny_s1l8': dict(dims=96, depths=(2, 2, 8, 2), ssm_ratio=1.0),
    'small_s2l15': dict(dims=96, depths=(2, 2, 15, 2), ssm_ratio=2.0),
    'small_s1l20': dict(dims=96, depths=(2, 2, 20, 2), ssm_ratio=1.0),
    'base_s2l15': dict(dims=128, depths=(2, 2, 15, 2), ssm_ratio=2.0),
    'base_s1l20': dict(dims=128, depths=(2, 2, 20, 2), ssm_ratio=1.0),
}
ARCHS |= {'tiny': ARCHS['tiny_s1l8'], 'small': ARCHS['small_s2l15'], 'base': ARCHS['base_s2l15']}

ARCH_DEFAULTS = dict(
    ssm_ratio=2.0, d_state=1, dt_rank='auto', mlp_ratio=4.0, gate=False, conv_bias=False, stem='conv', downsample='conv'
)

# `cross` is the scan of the released models. The others are ablations of the paper (section 5.3): they also run four
# scans, each with its own parameters, but several of them use the same traversal.
SCANS = {'cross': CROSS, 'unidirectional': UNIDIRECTIONAL, 'bidirectional': BIDIRECTIONAL}


class Stage(nn.Module):
    """The blocks of one resolution and the downsampling to the next one (none after the last stage)."""

    def __init__(self, blocks: list[VSSBlock], downsample: nn.Module):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.downsample = downsample

    def forward(self, x: Tensor, with_cp: bool) -> tuple[Tensor, Tensor]:
        """Returns the output of this stage and the input of the next one."""
        for block in self.blocks:
            x = call_block(block, x, with_cp=with_cp)
        return x, self.downsample(x)


@MODELS.register_module()
@register_family
class VMamba(Backbone):
    """VMamba backbone: feature maps at strides 4, 8, 16 and 32.

    Source: VMamba: Visual State Space Model (arXiv 2401.10166). Parameter names are those of the released checkpoints.

    Args:
        arch: a name in `ARCHS` (`tiny`, `small` and `base` are the recommended variants), or a dict with `dims` (the
            widths of the four stages, or that of the first; each later stage is then twice as wide as the previous
            one), `depths` (blocks per stage) and optionally `ssm_ratio` (2.0), `d_state` (1), `dt_rank` ('auto'),
            `mlp_ratio` (4.0; 0 for no MLP), `gate` (False), `conv_bias` (False), `stem` ('conv' or 'patch') and
            `downsample` ('conv' or 'merging').
        in_channels: channels of the input image.
        out_indices: the stages to return, 0 to 3, each through its own LayerNorm. Later stages are not built.
        drop_path_rate: rate of stochastic depth of the last block; it rises linearly from 0 at the first.
        traversals: `cross`, the paper's ablations `unidirectional` and `bidirectional`, or a tuple of names in
            `mmvmamba.ops.TRAVERSALS`, one for each direction.
        frozen_stages: -1 freezes nothing, 0 the stem, i > 0 the stem and the first i stages.
        with_cp: recompute each block in the backward pass to save memory.
        init_cfg: `dict(type='Pretrained', checkpoint=FILE_OR_URL)` loads official files unchanged, in `init_weights()`,
            which MMEngine calls before a training. None starts from random weights.
        pretrained: FILE_OR_URL, loaded at once by the constructor; for use without MMEngine.

    Raises:
        ValueError: an argument or an image is invalid; the message names it.
        CheckpointError: the weights do not fit; the message lists names and shapes.
    """

    patch_embed: nn.Sequential

    archs = ARCHS
    missing_ok = ('outnorm',)
    unexpected_ok = ('classifier.', 'norm.', 'head.', 'outnorm')  # out_indices may select fewer outputs than a file has
    classifier_keys = {
        'classifier.norm.': 'backbone.outnorm3.',  # newer released files
        'norm.': 'backbone.outnorm3.',  # older released files
        'classifier.head.': 'head.fc.',
        'head.': 'head.fc.',
    }

    def __init__(
        self,
        arch: str | dict = 'tiny',
        in_channels: int = 3,
        out_indices: tuple[int, ...] = (0, 1, 2, 3),
        drop_path_rate: float = 0.2,
        traversals: str | tuple[str, ...] = 'cross',
        frozen_stages: int = -1,
        with_cp: bool = False,
        init_cfg: dict | list | None = None,
        pretrained: str | None = None,
    ):
        super().__init__(init_cfg, pretrained)
        arch = _complete_arch(arch, self.archs)
        dims, depths = arch['dims'], arch['depths']
        check_count('in_channels', in_channels)
        check_rate('drop_path_rate', drop_path_rate)
        check_outputs(out_indices, 4, 'stage')
        check_flag('with_cp', with_cp)
        check_count('frozen_stages', frozen_stages, -1, 4)
        traversals = _resolve_traversals(traversals)
        self.in_channels = in_channels
        self.out_indices = tuple(sorted(out_indices))
        self.frozen_stages = frozen_stages
        self.with_cp = with_cp
        self.smallest_image = STEMS[arch['stem']].smallest_image

        self.patch_embed = STEMS[arch['stem']](in_channels, dims[0])
        mixer = {field: arch[field] for field in ('d_state', 'ssm_ratio', 'dt_rank', 'gate', 'conv_bias')}
        rates = iter(linear_rates(drop_path_rate, sum(depths)))
        last = self.out_indices[-1]
        self.layers = nn.ModuleList()
        self.depths = tuple(depths[: last + 1])
        for i, (channels, depth) in enumerate(zip(dims, self.depths)):
            blocks = [
                VSSBlock(channels, SS2D(channels, **mixer, traversals=traversals), arch['mlp_ratio'], next(rates))
                for _ in range(depth)
            ]
            downsample = DOWNSAMPLES[arch['downsample']](channels, dims[i + 1]) if i < last else nn.Identity()
            self.layers.append(Stage(blocks, downsample))
        for i in self.out_indices:
            self.add_module(f'outnorm{i}', nn.LayerNorm(dims[i]))
        not_built = (f'layers.{last}.downsample.', *(f'layers.{i}.' for i in range(last + 1, 4)))
        self.unexpected_ok = (*type(self).unexpected_ok, *not_built)
        self.apply(_init_linear)
        self.finish_init()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(B, in_channels, H, W) -> one (B, dims[i], ~H / (4 * 2**i), ~W / (4 * 2**i)) for each i in out_indices."""
        check_image(
            x, self.in_channels, self.smallest_image, first_layer=self.patch_embed[0]
        )  # which has their dtype and device
        x = self.patch_embed(in_channels_last_format(x))
        outs = []
        for i, stage in enumerate(self.layers):
            out, x = stage(x, self.with_cp)
            if i in self.out_indices:
                outs.append(getattr(self, f'outnorm{i}')(out).permute(0, 3, 1, 2).contiguous())
        return tuple(outs)

    @property
    def num_blocks(self) -> int:
        return sum(self.depths)

    def layer_depth(self, name: str) -> int:
        top, *rest = name.split('.')
        if top == 'patch_embed':
            return 0
        if top != 'layers':  # output norms
            return self.num_blocks + 1
        stage, part = int(rest[0]), rest[1]
        # a downsampling layer has the learning rate of the block that follows
        block = self.depths[stage] if part == 'downsample' else int(rest[2])
        return 1 + sum(self.depths[:stage]) + block

    @staticmethod
    def rename_checkpoint_key(key: str) -> str:
        for old, new in _OLDER_KEYS:
            key = re.sub(old, new, key)
        return key

    def keys_to_skip(self, keys: Iterable[str]) -> set[str]:
        """Skips `outnorm3` of an mmpretrain classifier, unless it is the only output norm of this backbone.

        It is the norm before the classification head, which does not suit a backbone that returns several stages. In
        the authors' files, this norm has another name, so nothing needs to be skipped.
        """
        norms = {key for key in keys if key.startswith('outnorm')}
        is_classifier = all(key.startswith('outnorm3.') for key in norms)
        return norms if is_classifier and self.out_indices != (3,) else set()

    @classmethod
    def identify_variant(cls, tensors: dict[str, Tensor]) -> dict | None:
        """Returns the constructor arguments, `arch` and `out_indices`, of the variant with these tensors, or None."""
        variant = super().identify_variant(tensors)
        if variant is None:
            return None
        outputs = tuple(i for i in range(4) if f'outnorm{i}.weight' in tensors)
        return {**variant, 'out_indices': outputs or (3,)}  # no outnorm: a classifier of the authors


# Regular expressions for the keys of older released files, and their replacements.
_OLDER_KEYS = (
    (r'^patch_embed\.proj\.', 'patch_embed.0.'),
    (r'^patch_embed\.norm\.', 'patch_embed.2.'),
    (r'\.self_attention\.', '.op.'),
    (r'\.ln_1\.', '.norm.'),
    (r'\.op\.x_proj\.weight$', '.op.x_proj_weight'),
    (r'\.op\.dt_projs\.(weight|bias)$', r'.op.dt_projs_\1'),
    (r'\.downsample\.1\.', '.downsample.norm.'),
    (r'\.downsample\.2\.', '.downsample.reduction.'),
)


def _complete_arch(arch: str | dict, archs: dict[str, dict]) -> dict:
    """Validates an architecture and returns all its fields, with four widths and depths."""
    example = 'dims=96, depths=(2, 2, 8, 2)'
    arch = resolve_arch(arch, archs, required=('dims', 'depths'), defaults=ARCH_DEFAULTS, example=example)
    if isinstance(arch['dims'], int):
        arch['dims'] = [arch['dims'] * 2**i for i in range(4)]
    for field in ('dims', 'depths'):
        if not isinstance(arch[field], (tuple, list)) or len(arch[field]) != 4:
            raise ValueError(f'{field}={arch[field]!r} must have 4 entries, one for each stage.')
        for value in arch[field]:
            # A stage may have no blocks. The stem's first convolution has half as many channels as the first stage.
            check_count(field, value, least=0 if field == 'depths' else 2)
    check_choice('stem', arch['stem'], STEMS)
    check_choice('downsample', arch['downsample'], DOWNSAMPLES)
    check_count('d_state', arch['d_state'])
    if arch['dt_rank'] != 'auto':
        check_count('dt_rank', arch['dt_rank'])
    check_ratio('ssm_ratio', arch['ssm_ratio'], min(arch['dims']))
    check_ratio('mlp_ratio', arch['mlp_ratio'], min(arch['dims']), may_be_0=True)
    for field in ('gate', 'conv_bias'):
        check_flag(field, arch[field])
    return arch


def _resolve_traversals(traversals: str | tuple[str, ...]) -> tuple[str, ...]:
    if isinstance(traversals, str) and traversals in SCANS:
        return SCANS[traversals]
    if not isinstance(traversals, (tuple, list)) or not traversals:
        choices = f'choose from {", ".join(SCANS)}, or give a tuple of {", ".join(TRAVERSALS)}'
        raise ValueError(f'Unknown traversals {traversals!r}: {choices}.')
    for name in traversals:
        check_choice('traversals', name, TRAVERSALS)
    return tuple(traversals)


def _init_linear(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
