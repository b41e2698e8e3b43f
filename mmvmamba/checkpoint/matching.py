"""Matches the keys, shapes and types of a checkpoint with those of a model."""

import copy
import re
from collections import Counter, OrderedDict
from itertools import chain
from pathlib import Path

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from .checkpoint_spec import CheckpointSpec
from .errors import CheckpointError, listing
from .match import Match, describe_mismatches
from .prefixes import prefix_advice
from .remapping import find_backbone, remap_keys
from .values import check_values, dtype_error

_SIZE_MISMATCH = re.compile(
    r'size mismatch for (\S+): copying a param with shape torch\.Size\(\[(.*?)\]\) .* torch\.Size\(\[(.*?)\]\)'
)


def match_state_dict(model: nn.Module, state_dict: dict[str, Tensor], filename: str | Path = '') -> Match:
    """Finds the tensors of a checkpoint that a model would load.

    Args:
        model: is not changed.
        state_dict: the result of `unwrap_state_dict`.
        filename: the name of the checkpoint for error messages.

    Raises:
        CheckpointError: the checkpoint does not fit the backbone, a load hook of the model fails, or a tensor contains
            NaN or Inf.
    """
    try:
        return _match(model, state_dict)
    except CheckpointError as error:
        if advice := prefix_advice(model, state_dict, filename):
            raise CheckpointError(advice) from error
        if filename:
            raise CheckpointError(f'{filename}: {error}') from error
        raise


def _match(model: nn.Module, state_dict: dict[str, Tensor]) -> Match:
    _reject_nested_tensors(state_dict)
    backbone, prefix = find_backbone(model)
    remapped = remap_keys(model, state_dict)
    file_keys = {key: file_key for file_key, key in remapped.items()}
    if len(file_keys) < len(remapped):
        duplicates = [key for key, count in Counter(remapped.values()).items() if count > 1]
        raise CheckpointError(f'it has two tensors for {listing(duplicates)}')
    tensors = {key: state_dict[file_key] for key, file_key in file_keys.items()}

    found = Match()
    if backbone is not None:
        part = {key[len(prefix) :]: tensor for key, tensor in tensors.items() if key.startswith(prefix)}
        inner = convert_backbone_keys(backbone, part)
        found.tensors.update((prefix + key, tensor) for key, tensor in inner.tensors.items())
        found.sources.update((prefix + key, prefix + source) for key, source in inner.sources.items())
        found.resized = [prefix + key for key in inner.resized]
        found.kept = [prefix + key for key in inner.kept]
    if backbone is not model:
        _match_other_parts(found, model, backbone, tensors, getattr(state_dict, '_metadata', {}))

    # so far, the sources are remapped keys
    found.sources = {key: file_keys[source] for key, source in found.sources.items()}
    check_values(model, found.tensors, found.sources)
    used = {*found.sources.values(), *(file_keys.get(key) for key in found.mismatched)}
    found.unexpected = [source for source in state_dict if source not in used]
    return found


def convert_backbone_keys(backbone: CheckpointSpec, tensors: dict[str, Tensor]) -> Match:
    """Gives the tensors of a checkpoint the keys and shapes of a backbone; neither argument is changed.

    Args:
        backbone: knows the released keys.
        tensors: tensors without the prefix `backbone.`, with the keys of the backbone or of a released checkpoint.

    Raises:
        CheckpointError: a key is missing or unexpected, or a tensor has another shape or type.
    """
    _reject_nested_tensors(tensors)
    own = backbone.state_dict()
    fitted = backbone.resize_checkpoint_tensors(tensors)  # all tensors; those of another image size are resized
    found, unexpected = Match(), []
    for source, tensor in fitted.items():
        key = source if source in own else backbone.rename_checkpoint_key(source)
        if key not in own or key in found.sources:
            unexpected.append(source)
            continue
        found.sources[key] = source
        value = reshaped_or_none(tensor, own[key].shape)
        if reason := dtype_error(tensor, own[key].dtype):
            found.mismatched[source] = reason
        elif value is None:
            found.mismatched[source] = f'has shape {tuple(tensor.shape)} instead of {tuple(own[key].shape)}'
        else:
            found.tensors[key] = value
            if tensor is not tensors[source]:
                found.resized.append(key)
    found.missing = [key for key in own if key not in found.sources]
    optional = [key for key in own if key.startswith(backbone.missing_ok)]
    # A released classifier has none of these keys. If only some of them are missing, the file is damaged.
    if set(optional) <= set(found.missing):
        found.kept = optional
        found.missing = [key for key in found.missing if key not in optional]
    ignored = [key for key in unexpected if key.startswith(backbone.unexpected_ok)]
    problems = {
        'missing keys': found.missing,
        'unexpected keys': [key for key in unexpected if key not in ignored],
        'mismatched tensors': describe_mismatches(found.mismatched),
    }
    if details := [f'{kind}: {listing(keys)}' for kind, keys in problems.items() if keys]:
        raise CheckpointError(f'{backbone.describe_mismatch(tensors)}; {"; ".join(details)}')
    found.unexpected = ignored
    if ignored:
        print_log(f'{type(backbone).__name__} does not load {listing(ignored)}.', logger='current')
    return found


def reshaped_or_none(tensor: Tensor, shape: torch.Size) -> Tensor | None:
    """Reshapes a tensor to `shape` if its values stay in the same order, else returns None.

    It may have trailing dimensions of 1 (the weight of a 1x1 convolution for a linear layer), and a first dimension
    K * C instead of (K, C).
    """
    if tensor.shape == shape:
        return tensor
    merged = (shape[0] * shape[1], *shape[2:]) if len(shape) > 2 else None
    trimmed = tuple(tensor.shape)
    while len(trimmed) > len(shape) and trimmed[-1] == 1:
        trimmed = trimmed[:-1]
    return tensor.reshape(shape) if trimmed in (tuple(shape), merged) else None


def _reject_nested_tensors(tensors: dict[str, Tensor]) -> None:
    # a nested tensor has no shape to compare
    if nested := [key for key, tensor in tensors.items() if tensor.is_nested]:
        raise CheckpointError(f'it contains nested tensors, which are not weights: {listing(nested)}')


def _match_other_parts(
    found: Match,
    model: nn.Module,
    backbone: CheckpointSpec | None,
    tensors: dict[str, Tensor],
    versions: dict[str, dict],
) -> None:
    """Adds the parts of a model other than its backbone to `found`.

    Loads into a copy of the model on the meta device, so that the load hooks of other libraries can rename and reshape
    tensors. A renamed tensor is recognised because it is the same object.
    """
    trial = _copy_to_meta(model)
    if backbone is not None:
        trial.add_module('backbone', None)
    own = {key: tensor for key, tensor in trial.state_dict(keep_vars=True).items() if isinstance(tensor, Tensor)}
    # parameters, because `load_state_dict` would wrap other tensors into new objects
    inputs = OrderedDict((key, nn.Parameter(tensor.detach(), False)) for key, tensor in tensors.items())
    vars(inputs)['_metadata'] = {name: dict(entry) for name, entry in versions.items()}  # PyTorch writes to the entries
    missing, unexpected, mismatched = _load_trial(trial, inputs)
    loaded = {key: tensor for key, tensor in trial.state_dict(keep_vars=True).items() if key in own}

    keys = {id(tensor): key for key, tensor in inputs.items()}
    used = {keys.get(id(tensor)) for tensor in loaded.values()}
    # Keys that were neither loaded nor reported, and that the model does not have: load hooks removed them, and stored
    # new tensors under other keys.
    replaced = [key for key in inputs if key not in {*used, *unexpected, *own}]
    # If a module has two names and the checkpoint has one of them, PyTorch reports the other as missing.
    missing = [key for key in missing if id(loaded.get(key)) not in keys]
    found.missing = [key for key in missing if not is_batch_norm_counter(key)]
    found.mismatched = mismatched
    for key, tensor in loaded.items():
        if key in missing or key in mismatched:
            continue
        # With `assign=True`, PyTorch replaces each tensor by that of the checkpoint. If the old tensor is still there,
        # the module has loading code of its own, which copies the values.
        if tensor is own[key]:
            if key not in inputs:
                found.missing.append(key)
                continue
            tensor = inputs[key]
        source = keys.get(id(tensor))
        if (
            key in inputs and own.get(source or '') is own[key]
        ):  # a module with two names has the tensor that was loaded last
            source = key
        if source is None:
            source = key if key in inputs else _guess_replaced_key(key, replaced)
            if source is None:  # a load hook created the tensor: it keeps its value
                if not is_batch_norm_counter(key):
                    found.kept.append(key)
                continue
            if source != key:
                replaced.remove(source)
            found.resized.append(key)
        if reason := dtype_error(tensor, own[key].dtype):
            found.mismatched[key] = reason
        else:
            found.tensors[key], found.sources[key] = tensor.detach(), source


def _guess_replaced_key(key: str, keys: list[str]) -> str | None:
    """Guesses the checkpoint key that a load hook replaced by the new key `key`: the last one in the same module."""
    module = key.rpartition('.')[0]
    return next((other for other in reversed(keys) if other.rpartition('.')[0] == module), None)


def _load_trial(trial: nn.Module, inputs: OrderedDict[str, nn.Parameter]) -> tuple[list, list, dict[str, str]]:
    """Loads everything that fits, and returns the missing, the unexpected and the mismatched keys."""
    incompatible, errors = [], []  # the first stays empty if loading fails before the hook
    trial.register_load_state_dict_post_hook(
        lambda _, keys: incompatible.extend((keys.missing_keys, keys.unexpected_keys))
    )
    try:
        nn.Module.load_state_dict(trial, inputs, strict=False, assign=True)
    except RuntimeError as error:
        headline, *errors = str(error).split('\n\t')  # PyTorch lists one mismatch per line
        errors = errors or [headline]
    mismatched = {}
    for error in errors:
        if not incompatible or not (parts := _SIZE_MISMATCH.match(error)):
            raise CheckpointError(' '.join(error.split())[:300])
        shapes = (tuple(map(int, filter(None, sizes.split(', ')))) for sizes in parts.groups()[1:])
        mismatched[parts[1]] = 'has shape {} instead of {}'.format(*shapes)
    missing, unexpected = incompatible
    return missing, unexpected, mismatched


def _copy_to_meta(model: nn.Module) -> nn.Module:
    """Copies a model without the values of its parameters and buffers."""
    memo = {}
    for tensor in chain(model.parameters(), model.buffers()):
        empty = torch.empty_like(tensor, device='meta')
        memo[id(tensor)] = nn.Parameter(empty, False) if isinstance(tensor, nn.Parameter) else empty
    return copy.deepcopy(model, memo)


def is_batch_norm_counter(key: str) -> bool:
    """Whether this is the batch counter of BatchNorm, which old files lack and which affects no result."""
    return key.endswith('num_batches_tracked')
