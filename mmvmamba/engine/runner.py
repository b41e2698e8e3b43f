"""Builds the Runner of a config, and checks the checkpoint that it will load before the run starts."""

from pathlib import Path

import torch
from mmengine.config import Config, ConfigDict
from mmengine.hooks import CheckpointHook, LoggerHook
from mmengine.logging import print_log
from mmengine.registry import HOOKS, MODELS, RUNNERS
from mmengine.runner import Runner

from ..checkpoint import match_checked, read_checkpoint, unwrap_state_dict
from .hooks.atomic_checkpoint import AtomicCheckpointHook
from .hooks.dataset_check import DatasetCheckHook
from .hooks.official_checkpoint import OfficialCheckpointHook
from .hooks.rank_zero_logger import RankZeroLoggerHook
from .patches.checkpoint_loader import install_checkpoint_loader
from .terminal import TerminalRunner, log_header
from .training_state import check_training_state, sanitize_resume_state


def build_runner(cfg: Config, min_loaded_fraction: float = 1.0, needs_training_state: bool = False) -> Runner:
    """Reads the checkpoint that the run will load, builds the Runner, and compares the checkpoint with its model.

    Args:
        cfg: complete config; `cfg.load_from` names the checkpoint, if any. Its hooks are replaced as described in
            `replace_hooks`.
        min_loaded_fraction: fraction of the model's tensors that must fit, see `match_checked`.
        needs_training_state: whether the run resumes from the checkpoint.

    Raises:
        CheckpointError: the checkpoint is rejected, unreadable, or does not fit.
    """
    replace_hooks(cfg)
    if not cfg.get('load_from'):
        return _new_runner(cfg)
    checkpoint = read_checkpoint(cfg.load_from)
    state_dict = unwrap_state_dict(checkpoint, cfg.load_from)
    if needs_training_state:
        check_training_state(checkpoint, cfg.load_from)
        randomness = cfg.get('randomness') or {}
        if randomness.get('seed') is None:  # mmengine shuffles the data before it reads the seed of the checkpoint
            cfg.randomness = {**randomness, 'seed': checkpoint['meta'].get('seed')}
    # A checkpoint contains the paths of earlier ones, which CheckpointHook deletes after resuming. Paths outside the
    # folder of this run are removed from it, so that no other files are deleted.
    sanitize_resume_state(checkpoint, checkpoint_folder(cfg))
    install_checkpoint_loader(cfg.load_from, checkpoint)  # MMEngine gets this checkpoint when it loads the file
    runner = _new_runner(cfg)
    # FlexibleRunner builds its model only when it starts
    model = runner.model if isinstance(runner.model, torch.nn.Module) else MODELS.build(cfg.model)
    match = match_checked(model, state_dict, cfg.load_from, min_loaded_fraction)  # raises if too little fits
    runner.register_hook(OfficialCheckpointHook(match))  # renames the keys of any checkpoint when the Runner loads it
    return runner


def _new_runner(cfg: Config) -> Runner:
    runner = RUNNERS.build(cfg) if cfg.get('runner_type') else TerminalRunner.from_cfg(cfg)  # pyright: ignore[reportArgumentType]
    log_header(runner)
    if not any(isinstance(hook, DatasetCheckHook) for hook in runner.hooks):
        runner.register_hook(DatasetCheckHook())
    return runner


# Hooks of MMEngine, and the hooks with the same arguments that replace them.
REPLACEMENTS = {CheckpointHook: AtomicCheckpointHook, LoggerHook: RankZeroLoggerHook}


def replace_hooks(cfg: Config) -> None:
    """Replaces CheckpointHook and LoggerHook of a config. Subclasses of CheckpointHook stay, which the log reports."""
    cfg.default_hooks = cfg.get('default_hooks') or {}
    hooks = cfg.default_hooks
    hooks.setdefault('checkpoint', ConfigDict(type='CheckpointHook', interval=1))  # the defaults of Runner
    hooks.setdefault('logger', ConfigDict(type='LoggerHook'))
    with HOOKS.switch_scope_and_registry(cfg.get('default_scope') or 'mmengine') as registry:
        for hook in [*hooks.values(), *(cfg.get('custom_hooks') or ())]:
            if not isinstance(hook, dict):  # None removes a default hook
                continue
            kind = registry.get(hook['type']) if isinstance(hook['type'], str) else hook['type']
            if kind in REPLACEMENTS:
                new = REPLACEMENTS[kind]
                hook['type'] = f'{new.__module__}.{new.__name__}'
            elif isinstance(kind, type) and issubclass(kind, CheckpointHook) and kind is not AtomicCheckpointHook:
                print_log(
                    f'{kind.__name__} of this config stays: if the run is killed during a save, the checkpoint can be '
                    'incomplete.',
                    logger='current',
                )


def checkpoint_folder(cfg: Config) -> Path:
    """The folder in which CheckpointHook writes: a subfolder of its `out_dir`, named like the work dir.

    It is the work dir itself if there is no `out_dir`, or if the checkpoints go to a remote store (`s3://`).
    """
    out_dir = str(((cfg.get('default_hooks') or {}).get('checkpoint') or {}).get('out_dir') or '')
    is_local = out_dir and '://' not in out_dir
    return Path(out_dir, Path(cfg.work_dir).resolve().name) if is_local else Path(cfg.work_dir)
