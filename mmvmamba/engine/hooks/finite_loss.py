"""Ends a training whose loss is not finite, and names the module in which this begins."""

from functools import partial
from typing import Any

import torch
from mmengine import dist
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ...checkpoint import unwrap_model
from ..errors import TrainingError


@HOOKS.register_module()
class FiniteLossHook(Hook):
    """Stops at the first loss that is not finite, before it changes the weights.

    The batch is then run again to find the first module whose output is not finite. Before that, only the losses are
    checked, not the modules. All ranks stop together. To use the hook, add
    `custom_hooks = [dict(type='mmvmamba.engine.hooks.finite_loss.FiniteLossHook')]` to the config.

    Raises:
        TrainingError: during `train`, with the iteration, the losses and the module.
    """

    def before_train(self, runner: Runner) -> None:
        model = unwrap_model(runner.model)
        self._handle = model.register_forward_hook(partial(self._look, runner), with_kwargs=True)

    def after_train(self, runner: Runner) -> None:
        self._handle.remove()

    def _look(self, runner: Runner, model: nn.Module, args: tuple, kwargs: dict, outputs: Any) -> None:
        if 'loss' not in (kwargs.get('mode'), *args[2:3]):
            return
        means = {
            name: torch.stack([value.detach().float().mean() for value in tree_leaves(values)]).sum()
            for name, values in outputs.items()
            if 'loss' in name  # mmengine adds these; the others are only logged
        }
        if not means:
            return
        is_finite = torch.stack(list(means.values())).isfinite().all().float()
        dist.all_reduce(is_finite, 'min')  # all ranks must run the batch again if one does
        if is_finite:
            return
        self._handle.remove()
        origin = _first_not_finite(model, args, kwargs)
        values = ', '.join(f'{name} {mean:.4g}' for name, mean in means.items() if not mean.isfinite())
        raise TrainingError(
            f'the loss of iteration {runner.iter + 1} is not finite ({values or "on another rank"}): {origin}; lower '
            'the learning rate, clip gradients or use bfloat16 instead of float16, and resume from the last checkpoint'
        )


def _first_not_finite(model: nn.Module, args: tuple, kwargs: dict) -> str:
    """Runs the model again, and describes the first module whose output is not finite."""
    found = []

    def look(name: str, module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        if not found and not _is_finite(output):
            parts = {
                'input': _is_finite((args, kwargs)),
                'weights': _is_finite(list(module.parameters())),
            }
            state = ' and '.join(f'{part} {"" if finite else "not "}finite' for part, finite in parts.items())
            found.append(f'{name or "the whole model"} ({type(module).__name__}; {state})')

    handles = [
        module.register_forward_hook(partial(look, name), with_kwargs=True) for name, module in model.named_modules()
    ]
    with torch.no_grad():
        model(*args, **kwargs)
    for handle in handles:
        handle.remove()
    if not found:
        return 'with other random numbers, all modules have finite outputs for the same batch'
    return f'the first module with a non-finite output is {found[0]}'


def _is_finite(node: Any) -> bool:
    return all(leaf.isfinite().all() for leaf in tree_leaves(node) if isinstance(leaf, Tensor))
