"""Reports the differences between a resumed training and the previous one, and which value takes effect."""

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.dist import get_world_size
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch.optim import Optimizer

from ...checkpoint import CheckpointError
from ..config_text import UNSET, differences, parse_config
from ..training_state import check_optimizer

RANKS = 'number_of_ranks'  # in `meta` of a checkpoint
CHECKPOINT, CONFIG = 'the value of the checkpoint takes effect', 'the value of this run takes effect'

# Settings that Runner reads from a config and that change a training. The optimizer and the schedule are compared as
# built, since they are restored from the checkpoint.
SETTINGS = (
    'model',
    'data_preprocessor',
    'train_dataloader',
    'train_cfg',
    'val_dataloader',
    'val_cfg',
    'val_evaluator',
    'optim_wrapper',
    'auto_scale_lr',
    'default_hooks',
    'custom_hooks',
    'randomness',
    'strategy',
    'compile',
    'activation_checkpointing',
    'efficient_conv_bn_eval',
)
COMPARED_AS_BUILT = ('optim_wrapper.optimizer', 'optim_wrapper.paramwise_cfg', 'optim_wrapper.constructor')


@HOOKS.register_module()
class ResumeReportHook(Hook):
    """On `--resume`, rejects another optimizer or kind of schedule, and logs a line for each other difference.

    MMEngine restores the settings of the optimizer (learning rate, weight decay) and of the schedule (end, milestones)
    from the checkpoint, whatever the config sets; everything else it takes from the config.

    Raises:
        CheckpointError: before the first step, if the state of the optimizer or schedule does not fit the config.
    """

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        checkpoint['meta'][RANKS] = get_world_size()

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        if not runner._resume:
            return
        for name, old, new, effect in self._differences(runner, checkpoint):
            runner.logger.warning(f'{name}: {_short(old)} in the checkpoint, {_short(new)} in this run; {effect}.')

    def _differences(self, runner: Runner, checkpoint: dict) -> Iterator[tuple[str, Any, Any, str]]:
        meta, file = checkpoint['meta'], str(runner._load_from)
        old, new = parse_config(meta.get('cfg')), parse_config(runner.cfg.pretty_text)
        if isinstance(runner, Runner):  # the strategies of FlexibleRunner store them in another form
            for part, wrapper, state in _pairs(runner.optim_wrapper, checkpoint['optimizer'], file):
                was, now = (_type_of_optimizer(config.get('optim_wrapper'), part) for config in (old, new))
                check_optimizer(wrapper.optimizer, state, was if was != now else None, file)
                for key, before, own in _groups(wrapper.optimizer, state):
                    yield '.'.join(filter(None, ('optim_wrapper', part, 'optimizer', key))), before, own, CHECKPOINT
            for name, before, now in _schedules(runner.param_schedulers, checkpoint.get('param_schedulers'), file):
                yield name, before, now, CHECKPOINT
        ranks = meta.get(RANKS, get_world_size())
        if ranks != get_world_size():
            yield 'number of ranks', ranks, get_world_size(), CONFIG
        seed, own_seed = meta.get('seed'), (runner.cfg.get('randomness') or {}).get('seed')
        if None not in (seed, own_seed) and seed != own_seed:
            yield 'randomness.seed', seed, own_seed, CHECKPOINT
        classes, own_classes = _classes(meta.get('dataset_meta')), _classes(_metainfo(runner))
        if classes and own_classes and classes != own_classes:
            yield 'classes', classes, own_classes, f'{CONFIG}, but the weights were trained for the previous classes'
        for setting in SETTINGS if old else ():
            for name, before, now in differences(old.get(setting, UNSET), new.get(setting, UNSET), setting):
                if not name.startswith(COMPARED_AS_BUILT) and name != 'randomness.seed':
                    yield name, before, now, CONFIG


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f'{text[:97]}...'


def _metainfo(runner: Runner) -> Any:
    return getattr(runner.train_dataloader.dataset, 'metainfo', None)


def _classes(metainfo: Any) -> list[str]:
    return list(map(str, metainfo.get('classes') or ())) if isinstance(metainfo, Mapping) else []


def _type_of_optimizer(optim_wrapper: Any, part: str) -> str | None:
    """Returns the class name of the optimizer, without its module, from the result of `parse_config`."""
    node = optim_wrapper
    for key in filter(None, (part, 'optimizer', 'type')):
        node = node.get(key) if isinstance(node, dict) else None
    return node.rpartition('.')[2] if isinstance(node, str) else None


def _pairs(wrapper: Any, state: dict, file: str) -> Iterator[tuple[str, OptimWrapper, dict]]:
    """Yields (name, wrapper, its state). The name is empty unless the config has several optimizers."""
    if not isinstance(wrapper, OptimWrapperDict):
        yield '', wrapper, state
        return
    for name, part in wrapper.items():
        if not isinstance(state.get(name), dict):
            raise CheckpointError(f'{file} has no state of the optimizer {name}: {_start_new(file)}')
        yield name, part, state[name]


def _groups(optimizer: Optimizer, state: dict) -> Iterator[tuple[str, Any, Any]]:
    """Yields (setting, saved value, own value) for the settings of the parameter groups that differ."""
    seen = set()
    for saved, own in zip(state['param_groups'], optimizer.param_groups):
        for key in sorted(own.keys() & saved.keys() - {'params', 'param_names'} - seen):
            base = f'initial_{key}'  # a scheduler changes the value itself
            before, now = (group.get(base, group[key]) for group in (saved, own))
            if key.startswith('initial_') or _plain(before) == _plain(now):
                continue
            seen.add(key)
            yield key, before, now


def _schedules(schedulers: Any, states: Any, file: str) -> Iterator[tuple[str, Any, Any]]:
    """Yields (setting, saved value, own value) for settings in which schedules of the same kind differ.

    Raises:
        CheckpointError: the number or kinds of schedulers differ. MMEngine would mix their settings.
    """
    if schedulers is None or states is None:  # MMEngine logs it
        return
    if isinstance(schedulers, dict):
        for name, part in schedulers.items():
            yield from _schedules(part, states.get(name) if isinstance(states, dict) else (), file)
        return
    if not isinstance(states, list) or len(states) != len(schedulers):
        count = len(states) if isinstance(states, list) else 'no'
        raise CheckpointError(
            f'{file} has the state of {count} schedulers, but this config has {len(schedulers)} in param_scheduler: '
            f'resume with the schedulers of the previous run, or {_start_new(file)}'
        )
    for index, (scheduler, saved) in enumerate(zip(schedulers, states)):
        own = scheduler.state_dict()
        if not isinstance(saved, dict) or own.keys() != saved.keys() or own['param_name'] != saved['param_name']:
            raise CheckpointError(
                f'param_scheduler.{index} of this config is a {type(scheduler).__name__}, but {file} has the state of '
                f'another kind: resume with the schedulers of the previous run, or {_start_new(file)}'
            )
        arguments = {name for kind in type(scheduler).__mro__ for name in inspect.signature(kind.__init__).parameters}
        for name in sorted(own.keys() & arguments - {'last_step', 'verbose'}):
            if _plain(saved[name]) != _plain(own[name]):
                yield f'param_scheduler.{index}.{name}', saved[name], own[name]


def _start_new(file: str) -> str:
    return f'start a new training from its weights with --cfg-options load_from={file}'


def _plain(value: Any) -> Any:
    """Converts a tuple to a list: a checkpoint may contain either."""
    return list(value) if isinstance(value, tuple) else value
