"""The layouts of released files, and where their tensors go in a model.

A classification file holds a whole classifier, without a prefix, whose last norm and head have their own names; the
files of mmdet, mmseg and mmpretrain hold ``backbone.``, and other parts as they are.
"""

import re
from collections import OrderedDict

import torch
from torch import nn

from .safe_loading import CheckpointError

_CLASSIFIER = (
    (re.compile(r'^(classifier\.)?norm\.'), 'backbone.outnorm3.'),
    (re.compile(r'^(classifier\.)?head\.'), 'head.fc.'),
    (re.compile(r'^'), 'backbone.'),
)


def names_in(model, names):
    """Where the parts of a file belong in a model; how the backbone calls its own parameters is up to the backbone.

    Args:
        model (nn.Module): a backbone, or a model that has one as ``backbone``; any other keeps the names.
        names (Iterable[str]): names in the file, of whatever layout.

    Returns:
        dict[str, str]: the name in the model for each name of the file that has a place there.
    """
    from .models.backbone import Backbone

    names = list(names)
    bare = not any(name.startswith('backbone.') for name in names)
    backbone = getattr(model, 'backbone', None)
    if isinstance(model, Backbone):
        backbone = model
        placed = {name: name.removeprefix('backbone.') for name in names if bare or name.startswith('backbone.')}
    elif not isinstance(backbone, Backbone) or not bare:
        placed = {name: name for name in names}
    elif 'head.fc.weight' in model.state_dict():
        placed = {name: _first_match(name) for name in names}
    else:
        placed = {name: f'backbone.{name}' for name in names}

    # A classifier's file has the norm of its last output alone, which says nothing about those of other outputs.
    norms = {name for name in names if re.match(r'(backbone\.)?outnorm\d', name)}
    last = {name for name in norms if 'outnorm3.' in name}
    if isinstance(backbone, Backbone) and last == norms and getattr(backbone, 'out_indices', (3,)) != (3,):
        placed = {name: place for name, place in placed.items() if name not in norms}
    return placed


def to_mmengine(state_dict, model=None):
    """The tensors of a released file under the names of an mmengine checkpoint.

    A classifier becomes an mmpretrain ``ImageClassifier``, whose ``backbone.`` also starts detectors and segmentors.

    Args:
        state_dict (dict[str, Tensor]): classifier, detector or segmentor.
        model (nn.Module | None): what has to load them; None makes do with the backbone, of a released variant.

    Returns:
        Match: the tensors are in ``taken``.

    Raises:
        CheckpointError: the backbone is no released variant, or tensors of the model are missing.
    """
    from .matching import match

    whole = model is not None
    if not whole:
        model = nn.Module()
        model.backbone = released_backbone(state_dict)
        heads = (state_dict.get(f'{name}.weight') for name in ('classifier.head', 'head', 'head.fc'))
        head = next((tensor for tensor in heads if tensor is not None), None)
        if head is not None:
            model.head = nn.Module()
            model.head.fc = nn.Linear(*head.shape[::-1], device='meta')
    found = match(model, state_dict)
    if lacking := [*found.missing, *found.fresh, *found.misshapen]:
        raise CheckpointError(f'it does not have {", ".join(lacking[:10])} as the model needs it')
    if not whole:  # the other parts of a detector have the names of its library
        found.taken.update((name, state_dict[name]) for name in found.left)
        found.sources.update((name, name) for name in found.left)
        found.left = []
    return found


def to_official(state_dict):
    """The inverse of ``to_mmengine``: an ``ImageClassifier`` becomes a classification file's ``model``.

    Detectors and segmentors keep their names, which are the released ones.
    """
    if 'head.fc.weight' not in state_dict:
        return OrderedDict(state_dict)
    classifier = '' if 'backbone.norm_f.weight' in state_dict else 'classifier.'  # Vim, VMamba
    back = (('backbone.outnorm3.', f'{classifier}norm.'), ('head.fc.', f'{classifier}head.'), ('backbone.', ''))
    names = {}
    for name in state_dict:
        old, new = next((pair for pair in back if name.startswith(pair[0])), ('', ''))
        names[name] = new + name.removeprefix(old)
    return OrderedDict((names[name], tensor) for name, tensor in state_dict.items())


def released_backbone(state_dict):
    """The released variant that these tensors belong to, built without weights (on the meta device).

    Raises:
        CheckpointError: there is none.
    """
    from .models import Vim, VMamba

    bare = {name.removeprefix('backbone.'): tensor for name, tensor in state_dict.items()}
    if arch := VMamba.released_variant(bare):
        outputs = tuple(i for i in range(4) if f'outnorm{i}.weight' in bare) or (3,)
        with torch.device('meta'):
            return VMamba(arch, out_indices=outputs)
    if arch := Vim.released_variant(bare):
        long_sequence = 'pos_embed' in bare and bare['pos_embed'].shape[1] > 197
        with torch.device('meta'):
            return Vim(arch, patch_stride=8 if long_sequence else 16, pooling='middle')
    raise CheckpointError('its backbone is none of the released variants: give the config of the model')


def _first_match(name):
    for pattern, replacement in _CLASSIFIER:
        if pattern.search(name):
            return pattern.sub(replacement, name, count=1)
