"""Finds the configs whose model a checkpoint fits, by the names and shapes of its tensors."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor, nn

from ..checkpoint import CheckpointError, read_checkpoint, unwrap_state_dict
from ..checkpoint.loading import match_checked
from .arguments import load_config
from .errors import LaunchError


def matching_configs(
    checkpoint: str, configs: Sequence[str], first: Sequence[str] = (), report: Callable[[float], None] = lambda _: None
) -> tuple[list[str], list[str]]:
    """Returns the configs that build a model with exactly the tensors of a checkpoint.

    If the config that the checkpoint was trained with is among them, only this one and those of `first` are returned:
    MMEngine stores its name. Otherwise every config is compared, which takes up to half a second each.

    Args:
        checkpoint: file or URL, in any layout that `load_checked` supports. It is read as data.
        configs: paths of config files.
        first: paths that are compared in any case, and returned before the others.
        report: is called with the share of `configs` that have been compared, 0 to 1.

    Returns:
        The paths, and one sentence for each config of `first` that does not match.

    Raises:
        CheckpointError: the checkpoint is rejected or unreadable.
    """
    content = read_checkpoint(checkpoint)
    state_dict = unwrap_state_dict(content, checkpoint)
    misfits = {config: _misfit(config, state_dict, checkpoint) for config in first}
    found = [config for config, reason in misfits.items() if not reason]
    reasons = [reason for reason in misfits.values() if reason]
    others = [config for config in configs if config not in misfits]
    name = _trained_with(content.get('meta'))
    named = [config for config in others if Path(config).stem == name]
    if fitting := [config for config in named if not _misfit(config, state_dict, checkpoint)]:
        return found + fitting, reasons
    for index, config in enumerate(others):
        report(index / len(others))
        if not _misfit(config, state_dict, checkpoint):
            found.append(config)
    return found, reasons


def _trained_with(meta: Any) -> str | None:
    """Returns the name of a config without its folder and suffix. MMEngine appends the time at which a run started."""
    experiment = meta.get('experiment_name') if isinstance(meta, dict) else None
    return re.sub(r'_\d{8}_\d{6}$', '', experiment) if isinstance(experiment, str) else None


def _misfit(config: str, state_dict: dict[str, Tensor], checkpoint: str) -> str | None:
    """Returns a sentence if the checkpoint does not fit the config."""
    try:
        cfg = load_config(config)
        parts = {key.partition('.')[0] for key in state_dict}
        if 'backbone' in parts and not parts <= cfg.model.keys():
            return (
                f'{config} is not for the checkpoint {checkpoint}, which also has {", ".join(parts - cfg.model.keys())}'
            )
        match_checked(_empty_model(cfg), state_dict, checkpoint)
    except (CheckpointError, LaunchError) as error:
        return f'{config}: {error}'
    except Exception as error:  # a config is a program, and a module may raise anything
        return f'{config} cannot be used: {type(error).__name__}: {" ".join(str(error).split())}'
    return None


def _empty_model(cfg: Config) -> nn.Module:
    """Builds a model without memory for its tensors if all its modules permit that."""
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope')):
        try:
            with torch.device('meta'):
                return MODELS.build(cfg.model)
        except (NotImplementedError, RuntimeError):  # Swin reads values of tensors when it is built
            return MODELS.build(cfg.model)
