"""Conversion between released checkpoints and mmengine checkpoints."""

from collections import OrderedDict
from pathlib import Path

from torch import Tensor, nn

from .checkpoint import CheckpointError, Match, match_state_dict
from .checkpoint.prefixes import prefix_advice
from .models.backbone import FAMILIES, Backbone


def to_mmengine(state_dict: dict[str, Tensor], model: nn.Module | None = None, filename: str | Path = '') -> Match:
    """Converts the tensors of a released checkpoint to the keys of an mmengine checkpoint.

    A classifier is converted to an mmpretrain `ImageClassifier`. Detectors and segmentors can load its `backbone.` keys
    as pretrained weights.

    Args:
        state_dict: tensors of a classifier, detector or segmentor.
        model: the model that the result must fit; None checks only the backbone, which must be a released variant.
        filename: the name of the checkpoint for error messages.

    Returns:
        A match with the converted tensors in `tensors`.

    Raises:
        CheckpointError: the backbone is not a released variant, or tensors of the model are missing.
    """
    whole = model is not None
    if not whole:
        model = nn.Module()
        model.backbone = released_backbone(state_dict, filename)
        heads = (state_dict.get(f'{name}.weight') for name in ('classifier.head', 'head', 'head.fc'))
        head = next((tensor for tensor in heads if tensor is not None), None)
        if head is not None and head.dim() == 2:
            classes, channels = head.shape
            model.head = nn.Module()
            model.head.fc = nn.Linear(channels, classes, device='meta')
    found = match_state_dict(model, state_dict, filename)
    if found.missing or found.kept or found.mismatched:
        raise CheckpointError(
            f'it does not fit the model ({found.differences(most=10)}): pass the config that it was trained with'
        )
    if not whole:  # the other parts of a detector already have the keys of its library
        found.tensors.update((name, state_dict[name]) for name in found.unexpected)
        found.sources.update((name, name) for name in found.unexpected)
        found.unexpected = []
    return found


def to_official(state_dict: dict[str, Tensor]) -> OrderedDict[str, Tensor]:
    """The inverse of `to_mmengine`: converts an `ImageClassifier` to the `model` entry of a released classifier.

    Detectors and segmentors are unchanged, because their keys are those of the released files.
    """
    if 'head.fc.weight' not in state_dict:
        return OrderedDict(state_dict)
    bare = [name.removeprefix('backbone.') for name in state_dict]
    family = max(FAMILIES.values(), key=lambda family: family.count_matching_keys(bare))
    back = {new: old for old, new in reversed(family.classifier_keys.items())}  # the first of several old names wins
    names = {}
    for name in state_dict:
        new = next((new for new in back if name.startswith(new)), None)
        names[name] = back[new] + name.removeprefix(new) if new else name.removeprefix('backbone.')
    return OrderedDict((names[name], tensor) for name, tensor in state_dict.items())


def released_backbone(state_dict: dict[str, Tensor], filename: str | Path = '') -> Backbone:
    """Builds the released variant that the tensors belong to, without weights (on the meta device).

    Raises:
        CheckpointError: the tensors do not belong to a released variant.
    """
    bare = {name.removeprefix('backbone.'): tensor for name, tensor in state_dict.items()}
    for family in FAMILIES.values():
        if variant := family.identify_variant(bare):
            return family.without_weights(**variant)
    for family in FAMILIES.values():
        smallest = family.without_weights(arch=next(iter(family.archs)))
        if advice := prefix_advice(smallest, state_dict, filename):
            raise CheckpointError(advice)
    raise CheckpointError('its backbone is not a released variant: pass the config of the model')
