"""Loading checkpoints into modules, whole or not at all."""

import logging
from collections import OrderedDict
from pathlib import Path

from mmengine.logging import print_log
from mmengine.model import BaseTTAModel, is_model_wrapper
from torch import Tensor, nn

from .errors import CheckpointError, listing
from .matching import Match, is_counter, match
from .prefixes import prefix_advice
from .reading import read_checkpoint, unwrap_state_dict


def load_pretrained(module: nn.Module, filename: str | Path, prefix: str = '', ema: bool = False) -> None:
    """Loads the weights of a file into a module that is to be trained, a backbone for instance.

    Args:
        module: receives the weights; what a backbone does not find in a classifier's file stays as it is.
        filename: local file or URL, of any layout that `place` knows.
        prefix: take only the tensors under this name, for instance `'neck.'` of a detector's checkpoint; the dot may
            be left out, as in mmengine. A backbone finds `'backbone.'` by itself.
        ema: take the averaged weights of the file.

    Raises:
        CheckpointError: the file is refused, has nothing under `prefix`, or does not fit. The module is unchanged.
    """
    state_dict = unwrap_state_dict(read_checkpoint(filename), filename, ema)
    if prefix:
        prefix = prefix.removesuffix('.') + '.'
        names, metadata = list(state_dict), state_dict._metadata
        state_dict = _below(state_dict, prefix)
        state_dict._metadata = _below(metadata, prefix)
        if not state_dict:
            reason = f"{filename} has no tensor whose name starts with '{prefix}'; it has: {listing(names)}"
            raise CheckpointError(prefix_advice(module, names, filename) or reason)
    found = match(module, state_dict, filename)
    if found.misshapen:
        raise CheckpointError(f'{filename} does not fit: size mismatch for {listing(found.misshapen)}')
    if not found.taken:
        reason = f'{filename} holds no tensor of {type(module).__name__}; it has: {listing(state_dict)}'
        raise CheckpointError(prefix_advice(module, state_dict, filename) or reason)
    found.load_into(module)
    print_log(f'{filename} -> {type(module).__name__}: {found.report()}', logger='current')


def match_checked(model: nn.Module, state_dict: dict[str, Tensor], filename: str | Path, least: float = 1.0) -> Match:
    """Finds out what a model takes of a file, and refuses a file that has too little for it.

    Args:
        model: built model, bare or wrapped (distributed, test-time augmentation); not changed.
        state_dict: from `unwrap_state_dict`, of any layout that `place` knows.
        filename: only named in messages.
        least: share of the model's tensors that must be in the file with the right shape: 1 to test or to resume, less
            to fine-tune.

    Raises:
        CheckpointError: fewer fit; lists names and shapes.
    """
    model = unwrap_model(model)
    found = match(model, state_dict, filename)
    total = sum(not is_counter(name) for name in model.state_dict())
    loaded = sum(not is_counter(name) for name in found.taken)
    if loaded < max(1, least * total):
        if advice := prefix_advice(model, state_dict, filename):
            raise CheckpointError(advice)
        required = 'all' if least == 1 else f'at least {least:.0%}'
        raise CheckpointError(
            f'{filename} does not fit the model of this config: it has {loaded} of the {total} tensors of the model, '
            f'{required} must be there; {found.differences(most=10)}'
        )
    print_log(f'{filename} -> {type(model).__name__}: {found.report()}', logger='current')
    if differences := found.differences():
        print_log(
            f'{filename} has {loaded} of the {total} tensors of the model; {differences}',
            logger='current',
            level=logging.WARNING,
        )
    return found


def load_checked(model: nn.Module, state_dict: dict[str, Tensor], filename: str | Path, least: float = 1.0) -> None:
    """Loads what fits, or refuses weights that fit too little of a model, which is then unchanged: `match_checked`."""
    match_checked(model, state_dict, filename, least).load_into(unwrap_model(model))


def unwrap_model(model: nn.Module) -> nn.Module:
    """The model inside wrappers for distribution and test-time augmentation."""
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model


def _below(entries: dict, prefix: str) -> OrderedDict:
    return OrderedDict((name[len(prefix) :], value) for name, value in entries.items() if name.startswith(prefix))
