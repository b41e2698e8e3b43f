"""A third model family, defined as a user would add one: it needs no file but this one."""

import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmvmamba.models.backbone import Backbone, register_family
from mmvmamba.models.layers import DropPath
from mmvmamba.models.validation import (
    check_count,
    check_image,
    check_outputs,
    check_rate,
    linear_rates,
    resolve_arch,
)
from mmvmamba.ops import selective_scan_2d
from mmvmamba.ops.arguments import check_flag

ARCHS = {'tiny': dict(width=8, depth=2), 'wide': dict(width=12, depth=2)}


class RowBlock(nn.Module):
    """Residual block: x plus a row scan of norm(x)."""

    def __init__(self, channels: int, drop_path: float):
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.proj = nn.Linear(channels, channels + 2)
        self.A_log = nn.Parameter(torch.zeros(channels, 1))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        dt, B, C = self.proj(y).unsqueeze(1).split((x.shape[-1], 1, 1), -1)
        y = selective_scan_2d(y, dt, -self.A_log.exp()[None], B, C, traversals=('row',), out_dtype=y.dtype)
        return x + self.drop_path(F.silu(y))


@MODELS.register_module()
@register_family
class RowMamba(Backbone):
    archs = ARCHS
    missing_ok = ('outnorm',)
    unexpected_ok = ('head.', 'norm.', 'outnorm')
    classifier_keys = {'norm.': 'backbone.outnorm1.', 'head.': 'head.fc.'}

    def __init__(
        self,
        arch: str | dict = 'tiny',
        in_channels: int = 3,
        out_indices: tuple[int, ...] = (1,),
        drop_path_rate: float = 0.0,
        frozen_stages: int = -1,
        with_cp: bool = False,
        init_cfg: dict | list | None = None,
        pretrained: str | None = None,
    ):
        super().__init__(init_cfg, pretrained)
        arch = resolve_arch(arch, self.archs, ('width', 'depth'), {}, 'width=8, depth=2')
        for name, value in (*arch.items(), ('in_channels', in_channels)):
            check_count(name, value)
        check_rate('drop_path_rate', drop_path_rate)
        check_count('frozen_stages', frozen_stages, -1, arch['depth'])
        check_flag('with_cp', with_cp)
        check_outputs(out_indices, arch['depth'], 'block')
        self.in_channels, self.out_indices, self.with_cp = in_channels, tuple(sorted(out_indices)), with_cp
        self.frozen_stages = frozen_stages
        self.patch_embed = nn.Conv2d(in_channels, arch['width'], 4, stride=4)
        rates = linear_rates(drop_path_rate, arch['depth'])[: self.out_indices[-1] + 1]
        self.layers = nn.ModuleList(RowBlock(arch['width'], rate) for rate in rates)
        for i in self.out_indices:
            self.add_module(f'outnorm{i}', nn.LayerNorm(arch['width']))
        not_built = tuple(f'layers.{i}.' for i in range(self.out_indices[-1] + 1, arch['depth']))
        self.unexpected_ok = type(self).unexpected_ok + not_built
        self.finish_init()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        check_image(x, self.in_channels, 4, self.patch_embed)
        x, outs = self.patch_embed(x).permute(0, 2, 3, 1), []
        for i, block in enumerate(self.layers):
            x = checkpoint(block, x, use_reentrant=False) if self.with_cp and torch.is_grad_enabled() else block(x)
            if i in self.out_indices:
                outs.append(getattr(self, f'outnorm{i}')(x).permute(0, 3, 1, 2).contiguous())
        return tuple(outs)

    @property
    def num_blocks(self) -> int:
        return len(self.layers)

    def layer_depth(self, name: str) -> int:
        top, *rest = name.split('.')
        return {'patch_embed': 0, 'layers': 1 + int(rest[0]) if top == 'layers' else 0}.get(top, self.num_blocks + 1)

    @staticmethod
    def rename_checkpoint_key(key: str) -> str:
        return key.replace('.log_decay', '.A_log')
