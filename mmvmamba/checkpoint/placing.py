"""The layouts of released files: where their tensors go in a model.

A classification file holds a whole classifier, without a prefix, whose last norm and head have their own names; the
files of mmdet, mmseg and mmpretrain hold `backbone.`, and other parts as they are.
"""

from collections.abc import Iterable

from torch import nn


def backbone_of(model: nn.Module) -> tuple[nn.Module | None, str]:
    """The backbone of a model that knows the names in released files, and its prefix: the model itself, or its part."""
    if hasattr(model, 'own_name'):
        return model, ''
    backbone = getattr(model, 'backbone', None)
    return (backbone, 'backbone.') if hasattr(backbone, 'own_name') else (None, '')


def place(model: nn.Module, names: Iterable[str]) -> dict[str, str]:
    """Where the parts of a file belong in a model; how the backbone calls its own parameters is up to the backbone.

    Args:
        model: a backbone, or a model that has one as `backbone`; any other keeps the names.
        names: names in the file, of whatever layout.

    Returns:
        The name in the model for each name of the file that has a place there.
    """
    names = list(names)
    backbone, prefix = backbone_of(model)
    if backbone is None:
        return {name: name for name in names}
    whole = any(name.startswith('backbone.') for name in names)
    if whole:
        part = {name: name.removeprefix('backbone.') for name in names if name.startswith('backbone.')}
        others = {name: name for name in names if name not in part}
    else:
        is_classifier = prefix and 'head.fc.weight' in model.state_dict()
        renamed = {name: place for name in names if (place := classifier_place(backbone, name))}
        others = renamed if is_classifier else {}
        norms = {} if is_classifier else norms_of_the_one_output(backbone, names)
        part = {name: norms.get(name, name) for name in names if name not in others}
    says_nothing = backbone.says_nothing(part.values())
    placed = {name: prefix + inner for name, inner in part.items() if inner not in says_nothing}
    return placed | others if prefix else placed


def norms_of_the_one_output(backbone: nn.Module, names: Iterable[str]) -> dict[str, str]:
    """Where a classifier's norm is in a backbone by itself, if that has no other norms of outputs."""
    own = {name for name in backbone.state_dict() if name.startswith(backbone.absent_in_classifier)}
    renamed = {name: place for name in names if (place := classifier_place(backbone, name))}
    norms = {name: place.removeprefix('backbone.') for name, place in renamed.items()}
    norms = {name: place for name, place in norms.items() if place in own}
    return norms if set(norms.values()) == own else {}


def classifier_place(backbone: nn.Module, name: str) -> str | None:
    """Where this tensor of a classification file is in an `ImageClassifier`, if it has another name there."""
    for old, new in backbone.classifier_names.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return None
