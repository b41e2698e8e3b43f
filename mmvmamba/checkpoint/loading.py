"""Loads checkpoints into modules. The checks precede the first write, so an error leaves a module unchanged."""

import logging
from collections import OrderedDict
from pathlib import Path

from mmengine.logging import print_log
from mmengine.model import BaseTTAModel, is_model_wrapper
from torch import Tensor, nn

from .errors import CheckpointError, listing
from .match import Match
from .matching import is_batch_norm_counter, match_state_dict
from .prefixes import prefix_advice
from .reading import read_checkpoint, unwrap_state_dict


def load_pretrained(module: nn.Module, filename: str | Path, prefix: str = '', ema: bool = False) -> None:
    """Loads pretrained weights into a module that is to be trained, for example a backbone.

    Args:
        module: receives the weights. It may have tensors that the checkpoint of a classifier does not contain, such as
            the output norms of a backbone. These keep their values.
        filename: local file or URL of a checkpoint of the module, of a released classifier, or of a whole model.
        prefix: load only the tensors with this prefix, for example `'neck.'` of a detector's checkpoint. The dot is
            optional, as in mmengine. A backbone finds `'backbone.'` by itself.
        ema: load the averaged weights of the checkpoint.

    Raises:
        CheckpointError: the checkpoint is unsafe, has no tensors with `prefix`, or does not fit. The module is
            unchanged.
    """
    state_dict = unwrap_state_dict(read_checkpoint(filename), filename, ema)
    if prefix:
        prefix = prefix.removesuffix('.') + '.'
        keys, metadata = list(state_dict), getattr(state_dict, '_metadata', {})
        state_dict = _strip_prefix(state_dict, prefix)
        vars(state_dict)['_metadata'] = _strip_prefix(
            metadata, prefix
        )  # an attribute: the versions of the modules, for load_state_dict
        if not state_dict:
            reason = f"{filename} has no tensor whose name starts with '{prefix}'; it has: {listing(keys)}"
            raise CheckpointError(prefix_advice(module, keys, filename) or reason)
    found = match_state_dict(module, state_dict, filename)
    if found.mismatched:
        raise CheckpointError(f'{filename} does not fit {type(module).__name__}; {found.differences(most=10)}')
    if not found.tensors:
        reason = f'{filename} has no tensor of {type(module).__name__}; it has: {listing(state_dict)}'
        raise CheckpointError(prefix_advice(module, state_dict, filename) or reason)
    found.load_into(module)
    print_log(f'{filename} -> {type(module).__name__}: {found.report()}', logger='current')
    if found.missing:
        print_log(
            f'{filename} does not have all tensors of {type(module).__name__}, which keep their values: '
            f'{listing(found.missing)}',
            logger='current',
            level=logging.WARNING,
        )


def match_checked(model: nn.Module, state_dict: dict[str, Tensor], filename: str | Path, least: float = 1.0) -> Match:
    """Matches a checkpoint with a model, and raises if it has too few of the model's tensors.

    Args:
        model: built model, bare or wrapped (distributed, test-time augmentation); is not changed.
        state_dict: the result of `unwrap_state_dict`: a checkpoint of the model or of a released classifier.
        filename: the name of the checkpoint for error messages.
        least: the share of the model's tensors that the checkpoint must contain with the right shape: 1 to test or to
            resume, less to fine-tune.

    Raises:
        CheckpointError: the checkpoint contains a smaller share. The message lists the keys and shapes that do not fit.
    """
    model = unwrap_model(model)
    found = match_state_dict(model, state_dict, filename)
    total = sum(not is_batch_norm_counter(key) for key in model.state_dict())
    loaded = sum(not is_batch_norm_counter(key) for key in found.tensors)
    if loaded < max(1, least * total):
        if advice := prefix_advice(model, state_dict, filename):
            raise CheckpointError(advice)
        required = 'all' if least == 1 else f'at least {least:.0%}'
        raise CheckpointError(
            f'{filename} does not fit the model of this config: it has {loaded} of the {total} tensors of the model, '
            f'but needs {required} ({found.differences(most=10)}): use the config that the checkpoint was trained with'
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
    """Loads the tensors that fit, or raises and leaves the model unchanged: see `match_checked`."""
    match_checked(model, state_dict, filename, least).load_into(unwrap_model(model))


def unwrap_model(model: nn.Module) -> nn.Module:
    """Returns the model inside wrappers for distributed training and test-time augmentation."""
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.get_submodule('module')
    return model


def _strip_prefix(entries: dict, prefix: str) -> OrderedDict:
    """The entries whose key has the prefix, without it."""
    return OrderedDict((key[len(prefix) :], value) for key, value in entries.items() if key.startswith(prefix))
