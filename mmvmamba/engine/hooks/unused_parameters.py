"""Finds parameters without a gradient, before DistributedDataParallel stops because of them."""

from typing import Any

from mmengine.hooks import Hook
from mmengine.optim import OptimWrapperDict
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch.nn.parallel import DistributedDataParallel

from ..checks.unread_outputs import unread_parameters
from ..errors import TrainingError


@HOOKS.register_module()
class UnusedParametersHook(Hook):
    """Ends a distributed training if a parameter receives no gradient.

    PyTorch would stop at the second step, with a message that names neither the parameter nor the cause. A backbone
    output that no neck or head reads is found before the first step, other parameters after it. Trainings with one
    process or with `find_unused_parameters=True` are not checked.

    Raises:
        TrainingError: during `train`, with the names of the parameters.
    """

    priority = 'VERY_HIGH'

    def before_train(self, runner: Runner) -> None:
        model: Any = runner.model
        self._handles = []
        self._reached: set[str] = set()
        is_strict = isinstance(model, DistributedDataParallel) and not model.find_unused_parameters
        if not is_strict or model.static_graph or type(runner.optim_wrapper) is OptimWrapperDict:
            return
        ignored = set(model.parameters_to_ignore)
        if unread := [name for name in unread_parameters(model.module) if name not in ignored]:
            raise TrainingError(
                f'no neck or head reads an output of the backbone, so {_listing(unread)} would receive no gradient, '
                'which stops distributed training: remove the output from out_indices and renumber start_level or '
                'in_index, or set find_unused_parameters=True in the config'
            )
        self._names = [n for n, p in model.module.named_parameters() if p.requires_grad and n not in ignored]
        for name in self._names:
            parameter = model.module.get_parameter(name)
            self._handles.append(parameter.register_hook(lambda _, name=name: self._reached.add(name)))

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        self._reached.clear()

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        # while gradients accumulate, DistributedDataParallel does not check them
        wrapper: Any = runner.optim_wrapper
        if not self._handles or not wrapper.should_update():
            return
        for handle in self._handles:
            handle.remove()
        self._handles = []
        if unused := [name for name in self._names if name not in self._reached]:
            raise TrainingError(
                f'{len(unused)} of {len(self._names)} parameters received no gradient in the first step '
                f'({_listing(unused)}), which stops distributed training: remove the layers that the loss does not '
                'use, or set find_unused_parameters=True in the config'
            )


def _listing(names: list[str]) -> str:
    return ', '.join(names[:8]) + (f' and {len(names) - 8} more' if len(names) > 8 else '')
