"""Maps the keys of a checkpoint to those of a model.

In a released classifier, the keys of the backbone have no prefix, and the last norm and the head have other names than
in mmpretrain. In the checkpoints of mmdet, mmseg and mmpretrain, the keys of the backbone have the prefix `backbone.`,
and all other keys are those of the model.
"""

from collections.abc import Iterable

from torch import nn

from .checkpoint_spec import CheckpointSpec


def find_backbone(model: nn.Module) -> tuple[CheckpointSpec | None, str]:
    """Returns the part of a model that implements `CheckpointSpec`, and the prefix of its keys.

    This is the model itself, with the prefix '', or its attribute `backbone`, with the prefix 'backbone.'. If there is
    none, the result is (None, '').
    """
    if isinstance(model, CheckpointSpec):
        return model, ''
    backbone = getattr(model, 'backbone', None)
    return (backbone, 'backbone.') if isinstance(backbone, CheckpointSpec) else (None, '')


def remap_keys(model: nn.Module, keys: Iterable[str]) -> dict[str, str]:
    """Maps each key of a checkpoint to its key in the model; keys that are skipped (`keys_to_skip`) are left out.

    This adds or removes prefixes, and renames the last norm and the head of a classifier. `convert_backbone_keys` in
    `matching.py` renames the keys inside the backbone later.

    Args:
        model: a backbone, a model with a backbone, or any other model, for which the keys do not change.
        keys: the keys of a checkpoint of any layout.
    """
    keys = list(keys)
    backbone, prefix = find_backbone(model)
    if backbone is None:
        return {key: key for key in keys}
    # `inner_keys` maps the keys of the backbone to keys without the prefix, which is added below; `final_keys` maps all
    # others (neck, head, norm of a classifier) to their keys in the model.
    if any(key.startswith('backbone.') for key in keys):
        inner_keys = {key: key.removeprefix('backbone.') for key in keys if key.startswith('backbone.')}
        final_keys = {key: key for key in keys if key not in inner_keys}
    else:
        is_classifier = prefix and 'head.fc.weight' in model.state_dict()
        final_keys = _remap_classifier_keys(backbone, keys) if is_classifier else {}
        norms = {} if is_classifier else remap_output_norm(backbone, keys)
        inner_keys = {key: norms.get(key, key) for key in keys if key not in final_keys}
    skipped = backbone.keys_to_skip(inner_keys.values())
    remapped = {key: prefix + inner for key, inner in inner_keys.items() if inner not in skipped}
    if not prefix:  # the model is the backbone alone, without neck and head
        return remapped
    return remapped | final_keys


def remap_output_norm(backbone: CheckpointSpec, keys: Iterable[str]) -> dict[str, str]:
    """Maps the norm of a classifier to the output norm of a backbone, if the backbone has a single one.

    In mmpretrain's `ImageClassifier`, this norm belongs to the backbone, so `classifier_keys` adds `backbone.` to it.
    """
    # `missing_ok` contains the prefixes of the output norms, since released classifiers have other names for their norm
    output_norm_keys = {key for key in backbone.state_dict() if key.startswith(backbone.missing_ok)}
    remapped = _remap_classifier_keys(backbone, keys).items()
    norms = {
        key: new.removeprefix('backbone.') for key, new in remapped if new.removeprefix('backbone.') in output_norm_keys
    }
    # a classifier has one norm: if the backbone has several, it does not cover all keys
    return norms if set(norms.values()) == output_norm_keys else {}


def remap_classifier_key(backbone: CheckpointSpec, key: str) -> str | None:
    """Returns the key in an `ImageClassifier` for a key of a released classifier; None if it only needs a prefix."""
    for old, new in backbone.classifier_keys.items():
        if key.startswith(old):
            return new + key.removeprefix(old)
    return None


def _remap_classifier_keys(backbone: CheckpointSpec, keys: Iterable[str]) -> dict[str, str]:
    return {key: new for key in keys if (new := remap_classifier_key(backbone, key))}
