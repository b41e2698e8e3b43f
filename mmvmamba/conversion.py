"""Released files under the names of mmengine checkpoints, and back."""

from collections import OrderedDict
from pathlib import Path

import torch
from torch import Tensor, nn

from .checkpoint import CheckpointError, Match, match
from .checkpoint.prefixes import prefix_advice
from .models.backbone import Backbone


def to_mmengine(state_dict: dict[str, Tensor], model: nn.Module | None = None, filename: str | Path = '') -> Match:
    """The tensors of a released file under the names of an mmengine checkpoint.

    A classifier becomes an mmpretrain `ImageClassifier`, whose `backbone.` also starts detectors and segmentors.

    Args:
        state_dict: classifier, detector or segmentor.
        model: what has to load them; None makes do with the backbone, of a released variant.
        filename: only named in errors.

    Returns:
        A match whose tensors are in `taken`.

    Raises:
        CheckpointError: the backbone is no released variant, or tensors of the model are missing.
    """
    whole = model is not None
    if not whole:
        model = nn.Module()
        model.backbone = released_backbone(state_dict, filename)
        heads = (state_dict.get(f'{name}.weight') for name in ('classifier.head', 'head', 'head.fc'))
        head = next((tensor for tensor in heads if tensor is not None), None)
        if head is not None:
            model.head = nn.Module()
            model.head.fc = nn.Linear(*head.shape[::-1], device='meta')
    found = match(model, state_dict, filename)
    if lacking := [*found.missing, *found.fresh, *found.misshapen, *found.mistyped]:
        raise CheckpointError(f'it does not have {", ".join(lacking[:10])} as the model needs it')
    if not whole:  # the other parts of a detector have the names of its library
        found.taken.update((name, state_dict[name]) for name in found.left)
        found.sources.update((name, name) for name in found.left)
        found.left = []
    return found


def to_official(state_dict: dict[str, Tensor]) -> OrderedDict[str, Tensor]:
    """The inverse of `to_mmengine`: an `ImageClassifier` becomes a classification file's `model`.

    Detectors and segmentors keep their names, which are the released ones.
    """
    if 'head.fc.weight' not in state_dict:
        return OrderedDict(state_dict)
    bare = [name.removeprefix('backbone.') for name in state_dict]
    family = max(Backbone.__subclasses__(), key=lambda family: family.resemblance(bare))
    back = {new: old for old, new in reversed(family.classifier_names.items())}  # of several old names the first
    names = {}
    for name in state_dict:
        new = next((new for new in back if name.startswith(new)), None)
        names[name] = back[new] + name.removeprefix(new) if new else name.removeprefix('backbone.')
    return OrderedDict((names[name], tensor) for name, tensor in state_dict.items())


def released_backbone(state_dict: dict[str, Tensor], filename: str | Path = '') -> Backbone:
    """The released variant that these tensors belong to, built without weights (on the meta device).

    Raises:
        CheckpointError: there is none.
    """
    bare = {name.removeprefix('backbone.'): tensor for name, tensor in state_dict.items()}
    for family in Backbone.__subclasses__():
        if variant := family.variant_of(bare):
            with torch.device('meta'):
                return family(**variant)
    for family in Backbone.__subclasses__():
        with torch.device('meta'):
            smallest = family(arch=next(iter(family.archs)))
        if advice := prefix_advice(smallest, state_dict, filename):
            raise CheckpointError(advice)
    raise CheckpointError('its backbone is none of the released variants: give the config of the model')
