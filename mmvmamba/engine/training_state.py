"""Checks the training state in a checkpoint before mmengine resumes from it.

mmengine trusts the file: it executes the config in it, and deletes the path that the file names as best checkpoint.
"""

import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from ..checkpoint import CheckpointError

NEEDED = ('meta', 'message_hub', 'optimizer')


def check_training_state(checkpoint: dict, filename: str) -> None:
    """Rejects a checkpoint from which a training cannot continue.

    Raises:
        CheckpointError: a part is missing, has a wrong type, or is not finite.
    """
    if lacking := [key for key in NEEDED if key not in checkpoint]:
        raise CheckpointError(
            f'{filename} has no training state ({", ".join(lacking)}) to resume from: '
            'start a new training from its weights with --cfg-options load_from=FILE'
        )
    meta, hub = checkpoint['meta'], checkpoint['message_hub']
    runtime = hub.get('runtime_info') if isinstance(hub, dict) else None
    sound = {
        'meta': isinstance(meta, dict),
        'meta.epoch': isinstance(meta, dict) and _is_count(meta.get('epoch')),
        'meta.iter': isinstance(meta, dict) and _is_count(meta.get('iter')),
        'meta.seed': isinstance(meta, dict) and (meta.get('seed') is None or _is_count(meta['seed'])),
        'message_hub': isinstance(hub, dict) and all(isinstance(hub.get(key), dict) for key in _HUB),
        'optimizer': isinstance(checkpoint['optimizer'], dict),
        'param_schedulers': isinstance(checkpoint.get('param_schedulers', []), (list, dict)),
        'keep_ckpt_ids': not isinstance(runtime, dict) or all(map(_is_count, _listed(runtime.get('keep_ckpt_ids')))),
    }
    if wrong := [name for name, is_sound in sound.items() if not is_sound]:
        raise CheckpointError(
            f'the training state of {filename} is damaged ({", ".join(wrong)}): resume from another checkpoint, or '
            'start a new training from its weights with --cfg-options load_from=FILE'
        )
    if not all(map(_is_finite, _tensors(checkpoint['optimizer']))):
        raise CheckpointError(
            f'the optimizer state of {filename} contains NaN or Inf: resume from an earlier checkpoint'
        )


def check_optimizer(optimizer: Optimizer, state: dict, saved_type: str | None, filename: str) -> None:
    """Rejects the state of another optimizer, with which a step would fail or use the wrong averages.

    Args:
        optimizer: of this run, before its state is loaded; its settings become those of `state`.
        state: of the optimizer in the checkpoint.
        saved_type: name of the class that wrote it, if known.
        filename: of the checkpoint.

    Raises:
        CheckpointError: another class, other settings, groups or shapes.
    """
    kind, way_out = (
        type(optimizer).__name__,
        (
            'resume with the optimizer and paramwise_cfg of the previous run, or start a new training from its weights '
            f'with --cfg-options load_from={filename}'
        ),
    )
    if saved_type not in (None, kind):
        raise CheckpointError(f'{filename} has the state of {saved_type}, but this config uses {kind}: {way_out}')
    groups, tensors = state.get('param_groups'), state.get('state')
    if not isinstance(tensors, dict) or not isinstance(groups, list) or not all(isinstance(g, dict) for g in groups):
        tensors, groups = {}, []
    sizes = [len(_listed(group.get('params'))) for group in groups]
    own_sizes = [len(group['params']) for group in optimizer.param_groups]
    if sizes != own_sizes:
        raise CheckpointError(
            f'{filename} has the state of {sum(sizes)} parameters in {len(sizes)} groups, but the {kind} of this '
            f'config has {sum(own_sizes)} in {len(own_sizes)}, or groups of other sizes: {way_out}'
        )
    optimizer = copy.copy(optimizer)  # the caller compares its settings later
    optimizer.param_groups = [dict(group) for group in optimizer.param_groups]
    optimizer.load_state_dict({'state': {}, 'param_groups': groups})  # adds the settings of newer versions of PyTorch
    lacking = optimizer.defaults.keys() - set.intersection(*(set(group) for group in optimizer.param_groups))
    misshapen = any(
        name in _LIKE_THE_PARAMETER and isinstance(tensor, Tensor) and tensor.shape != parameter.shape
        for number, parameter in _numbered(optimizer, groups)
        for name, tensor in (tensors[number].items() if isinstance(tensors.get(number), dict) else ())
    )
    if lacking or misshapen:
        what = f'{", ".join(sorted(lacking))} is missing' if lacking else 'the shapes differ'
        raise CheckpointError(f'{filename} has the state of an optimizer other than {kind} ({what}): {way_out}')


_LIKE_THE_PARAMETER = {'exp_avg', 'exp_avg_sq', 'momentum_buffer'}


def _numbered(optimizer: Optimizer, groups: list[dict]) -> Iterator[tuple[Any, Tensor]]:
    """Yields (number in the saved state, parameter) in the order in which PyTorch assigns them."""
    for saved, own in zip(groups, optimizer.param_groups):
        yield from zip(saved['params'], own['params'])


_HUB = ('log_scalars', 'runtime_info', 'resumed_keys')


def sanitize_resume_state(checkpoint: dict, folder: Path | None) -> None:
    """Changes a checkpoint so that resuming executes no code, and deletes no file outside the folder of this run.

    Args:
        checkpoint: content of the file.
        folder: checkpoint folder of this run, or None if the run saves no checkpoints.
    """
    if isinstance(checkpoint.get('meta'), dict):
        # mmengine executes it as a Python config, to compare a number of GPUs that it no longer saves
        checkpoint['meta'].pop('config', None)
    hub = checkpoint.get('message_hub')
    runtime = hub.get('runtime_info') if isinstance(hub, dict) else None
    if not isinstance(runtime, dict):
        return
    for key in [key for key in runtime if isinstance(key, str) and key.startswith('best_ckpt')]:
        name = Path(runtime[key]).name if isinstance(runtime[key], str) else ''
        runtime[key] = str(folder / name) if folder and re.fullmatch(r'best_.+\.pth', name) else None


def _is_finite(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or (not tensor.is_meta and bool(tensor.isfinite().all()))


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _listed(value: Any) -> list:
    return value if isinstance(value, list) else [] if value is None else [value]


def _tensors(node: Any) -> Iterator[Tensor]:
    if isinstance(node, torch.Tensor):
        yield node
    elif isinstance(node, (dict, list, tuple)):
        for child in node.values() if isinstance(node, dict) else node:
            yield from _tensors(child)
