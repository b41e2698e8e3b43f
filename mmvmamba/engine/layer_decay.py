"""Layer-wise learning rates and selective weight decay, for every task library."""

from typing import Any

from mmengine.logging import print_log
from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn

OPTIONS = dict(layer_decay_rate=1.0, decay_A=False)

# Not decayed, like all parameters with one dimension (norms, biases, D).
UNDECAYED = ('pos_embed', 'cls_token', 'cls_token_head', 'cls_token_tail', 'dt_projs_bias', 'bias')
STATE_DECAYS = ('A_log', 'A_b_log', 'A_logs')


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """Sets smaller learning rates for earlier blocks, and excludes some parameters from weight decay.

    A parameter at depth i of n has the learning rate `lr * layer_decay_rate ** (n - 1 - i)`. The depths come from
    `get_layer_depth` of the backbone; necks and heads have the last one. Norms, biases, position embeddings, class
    tokens and D are not decayed. Works with any model that has a `backbone`: detectors, segmentors and classifiers. The
    resulting groups are logged.

    Source: layer-wise rates as in BEiT (arXiv 2106.08254).

    Args:
        optim_wrapper_cfg: as in MMEngine, with `optimizer=dict(type=..., lr=..., weight_decay=...)`.
        paramwise_cfg: `layer_decay_rate` (1.0, the same rate everywhere) and `decay_A` (False leaves A_log
            undecayed, as in Mamba, since decay pulls A to -1; True decays it like a weight).

    Raises:
        ValueError: an unknown option, no lr, or a rate other than 1 for a backbone without `get_layer_depth`.

    Example:
        >>> optim_wrapper = dict(
        ...     type='OptimWrapper',
        ...     optimizer=dict(type='AdamW', lr=1e-4, weight_decay=0.1),
        ...     constructor='LayerDecayOptimWrapperConstructor',
        ...     paramwise_cfg=dict(layer_decay_rate=0.837))
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None):
        paramwise_cfg = paramwise_cfg or {}
        if unknown := set(paramwise_cfg) - set(OPTIONS):
            raise ValueError(
                f'Unknown option of paramwise_cfg: {", ".join(sorted(unknown))}. '
                f'LayerDecayOptimWrapperConstructor knows {", ".join(OPTIONS)}.'
            )
        super().__init__(optim_wrapper_cfg, OPTIONS | paramwise_cfg)
        if self.base_lr is None:
            raise ValueError(
                'The optimizer of optim_wrapper needs an lr, which LayerDecayOptimWrapperConstructor scales.'
            )

    def add_params(self, params: list[dict], module: nn.Module) -> None:
        """Appends one group for each depth and weight decay, in order of depth."""
        groups = {}
        for name, parameter in module.named_parameters():
            if not parameter.requires_grad:
                continue
            depth, scale = self._depth_and_scale(module, name)
            decay = (self.base_wd or 0.0) if self._is_decayed(name, parameter) else 0.0
            group = groups.setdefault(
                (depth, decay),
                dict(params=[], param_names=[], lr=self.base_lr * scale, lr_scale=scale, weight_decay=decay),
            )
            group['params'].append(parameter)
            group['param_names'].append(name)
        for (depth, decay), group in sorted(groups.items()):
            params.append(group)
            print_log(
                f'depth {depth}: {len(group["params"])} tensors, lr {group["lr"]:.3g} (x {group["lr_scale"]:.3g}), '
                f'weight decay {decay:g}',
                logger='current',
            )

    def _depth_and_scale(self, model: nn.Module, name: str) -> tuple[int, float]:
        rate = self.paramwise_cfg['layer_decay_rate']
        backbone: Any = getattr(model, 'backbone', None)
        if not hasattr(backbone, 'get_layer_depth'):
            if rate == 1:
                return 0, 1.0
            raise ValueError(
                f'layer_decay_rate={rate} needs a backbone with get_layer_depth, which {type(backbone).__name__} of '
                f'{type(model).__name__} does not have: use VMamba, Vim or a backbone of mmpretrain, or set '
                'layer_decay_rate=1.'
            )
        depth, depths = backbone.get_layer_depth(name, 'backbone.')
        return depth, rate ** (depths - 1 - depth)

    def _is_decayed(self, name: str, parameter: nn.Parameter) -> bool:
        last = name.rpartition('.')[2]
        if last in STATE_DECAYS:
            return self.paramwise_cfg['decay_A']
        return parameter.ndim > 1 and last not in UNDECAYED
