"""The base class of all backbones, and the registry of model families."""

from collections.abc import Iterable
from functools import cache
from typing import Any, TypeVar

import torch
from mmengine.logging import print_log
from mmengine.model import BaseModule
from mmengine.model.weight_init import update_init_info
from torch import Tensor, nn

from ..checkpoint import CheckpointError, convert_backbone_keys, load_pretrained, unwrap_state_dict
from ..checkpoint.matching import reshaped_or_none
from ..checkpoint.prefixes import renaming_advice, unknown_prefixes
from ..checkpoint.remapping import remap_classifier_key, remap_output_norm
from .validation import pretrained_init_cfg, reject_torchscript


class Backbone(BaseModule):
    """A backbone that loads all of its weights or raises, and logs when it starts from random weights.

    MMEngine loads with `strict=False` and only warns about mismatches. Here the check is part of the module, so it
    applies to every tool that loads a model. `CheckpointError` lists the tensors that do not fit. To load weights into
    only a part of a backbone, call `load_state_dict` of that submodule.

    A family overrides the members of `mmvmamba.checkpoint.CheckpointSpec`, which describe its released checkpoints, and
    `archs`, `num_blocks` and `layer_depth`.

    Attributes:
        archs: the released architectures by name.
    """

    archs: dict[str, dict] = {}

    missing_ok: tuple[str, ...] = ()
    unexpected_ok: tuple[str, ...] = ()
    classifier_keys: dict[str, str] = {'head.': 'head.fc.'}

    patch_embed: nn.Module
    layers: nn.ModuleList
    frozen_stages: int

    __prepare_scriptable__ = reject_torchscript

    def __init__(self, init_cfg: dict | list | None, pretrained: str | None):
        super().__init__(pretrained_init_cfg(init_cfg, pretrained))
        self._loads_at_once = pretrained is not None

    def finish_init(self) -> None:
        """Freezes the stages and loads the weights of `pretrained`: the last statement of a family's constructor."""
        self._freeze_stages()
        if self._loads_at_once:
            self._load_init_cfg()

    @staticmethod
    def rename_checkpoint_key(key: str) -> str:
        return key

    def resize_checkpoint_tensors(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return tensors

    def keys_to_skip(self, keys: Iterable[str]) -> set[str]:
        return set()

    def describe_mismatch(self, tensors: dict[str, Tensor]) -> str:
        """Names the released variant that a checkpoint belongs to, if it is known."""
        own_family = registered_family(type(self))
        own_variant = own_family.identify_variant(self.state_dict()) if own_family else None
        own_arch = own_variant['arch'] if own_variant else None
        for family in FAMILIES.values():
            variant = family.identify_variant(tensors)
            if variant is None:
                continue
            # The requested variant does not explain the mismatch. A family may inherit `archs`.
            is_requested = own_family and issubclass(own_family, family) and variant['arch'] == own_arch
            if not is_requested:
                requested = f'{type(self).__name__} {own_arch or "of other sizes"}'
                return f'This file is {family.__name__} {variant["arch"]}, the config asks for {requested}'
        return f'This checkpoint does not fit {type(self).__name__}'

    @classmethod
    def identify_variant(cls, tensors: dict[str, Tensor]) -> dict[str, Any] | None:
        """Returns the constructor arguments of the released variant whose blocks have these keys and shapes, or None.

        The first argument is `arch`. Families add the other arguments that they can infer from the tensors.
        """
        for arch in cls.archs:
            shapes = _block_shapes(cls, arch)
            renamed = {
                key if key in shapes else cls.rename_checkpoint_key(key): tensor
                for key, tensor in tensors.items()
                if key.startswith('layers.')
            }
            if renamed.keys() == shapes.keys() and all(
                reshaped_or_none(renamed[key], shapes[key]) is not None for key in renamed
            ):
                return dict(arch=arch)
        return None

    @classmethod
    def count_matching_keys(cls, keys: Iterable[str]) -> int:
        """Counts the keys that belong to the first layer of this family. They must not have a prefix (`backbone.`).

        The family with the highest count is assumed to own the checkpoint.
        """
        first = 'layers.0.'
        known = {key for key in _block_shapes(cls, next(iter(cls.archs))) if key.startswith(first)}
        return len(known.intersection(cls.rename_checkpoint_key(key) for key in keys if key.startswith(first)))

    @classmethod
    def without_weights(cls, **arguments: Any) -> 'Backbone':
        """Builds a backbone on the meta device."""
        with torch.device('meta'):
            return cls(**arguments)

    def frozen_modules(self) -> list[nn.Module]:
        """Returns the modules that `frozen_stages` freezes: at 0 `patch_embed`, then one layer after the other."""
        return [self.patch_embed, *self.layers[: self.frozen_stages]] if self.frozen_stages >= 0 else []

    @property
    def num_blocks(self) -> int:
        raise NotImplementedError

    def layer_depth(self, name: str) -> int:
        """Returns 0 for a parameter before the blocks, i for the i-th block, and num_blocks + 1 after the blocks."""
        raise NotImplementedError

    def get_layer_depth(self, param_name: str, prefix: str = '') -> tuple[int, int]:
        """Returns the depth of a parameter for layer-wise learning rates, and the number of depths.

        This is mmpretrain's interface. A parameter that does not start with `prefix` belongs to a neck or a head and
        has the last depth.
        """
        last = self.num_blocks + 1
        depth = self.layer_depth(param_name.removeprefix(prefix)) if param_name.startswith(prefix) else last
        return depth, last + 1

    def init_weights(self) -> None:
        if self._loads_at_once:  # the constructor has loaded the weights
            return
        if not self.init_cfg:
            print_log(f'{type(self).__name__} starts from random weights: its init_cfg is None.', logger='current')
        if isinstance(self.init_cfg, dict) and self.init_cfg['type'] == 'Pretrained':
            self._load_init_cfg()
        else:
            super().init_weights()

    def _load_init_cfg(self) -> None:
        assert isinstance(self.init_cfg, dict)
        prefix, ema = self.init_cfg.get('prefix') or '', self.init_cfg.get('ema', False)
        load_pretrained(self, self.init_cfg['checkpoint'], prefix, ema)
        self._is_init = True
        if hasattr(self, '_params_init_info'):
            update_init_info(self, f'Pretrained: load from {self.init_cfg["checkpoint"]}')

    def train(self, mode: bool = True) -> 'Backbone':
        super().train(mode)
        self._freeze_stages()
        return self

    def _freeze_stages(self) -> None:
        for module in self.frozen_modules():
            module.eval()
            module.requires_grad_(False)

    def _checkpoint_filter(self, state_dict: dict, prefix: str, *args) -> None:
        """Renames the tensors of a released classifier to those of mmpretrain's `ImageClassifier`.

        This is mmpretrain's interface: an `ImageClassifier` calls this method of its backbone before it loads a
        checkpoint, so that mmpretrain's own inferencer accepts released files.
        """
        _unwrap(state_dict, prefix)
        keys = {key: key.removeprefix(prefix) for key in state_dict if key.startswith(prefix)}
        if any(inner.startswith('backbone.') for inner in keys.values()):
            return
        if prefixes := unknown_prefixes(self, keys.values()):
            raise CheckpointError(renaming_advice(self, prefix + prefixes[0], prefix))
        for key, inner in keys.items():
            state_dict[prefix + (remap_classifier_key(self, inner) or f'backbone.{inner}')] = state_dict.pop(key)

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args) -> None:
        """Converts the tensors to the keys and shapes of this model, or raises.

        The checkpoint of a classifier lacks some tensors, such as the output norms. These keep their values.
        """
        _unwrap(state_dict, prefix)
        part = {key[len(prefix) :]: state_dict.pop(key) for key in list(state_dict) if key.startswith(prefix)}
        if prefix and not part:
            raise CheckpointError(
                f'the file has no tensor whose name starts with {prefix!r}: '
                'python tools/model_converters/convert_checkpoint.py FILE OUT.pth converts a released classifier, and '
                'reports the prefix of other files'
            )
        for key in self.keys_to_skip(part):
            del part[key]
        # the norm before the head of a classifier is that of the last output, if this backbone has no other outputs
        for key, new in remap_output_norm(self, part).items():
            part[new] = part.pop(key)
        try:
            found = convert_backbone_keys(self, part)
        except CheckpointError as error:
            prefixes = unknown_prefixes(self, part)
            if not prefixes and any(key.startswith('backbone.') for key in part):
                prefixes = ['backbone.']  # a checkpoint of a whole model, loaded into the backbone alone
            if prefixes:
                raise CheckpointError(renaming_advice(self, prefix + prefixes[0], prefix)) from error
            raise
        own = self.state_dict()
        # strict loading requires all keys
        tensors = found.tensors | {key: own[key] for key in found.kept}
        state_dict.update((prefix + key, tensor) for key, tensor in tensors.items())
        super()._load_from_state_dict(state_dict, prefix, *args)


# The model families, in the order in which the variant of a checkpoint is searched. The keys are the full names of the
# classes, so that a class that is defined again in a notebook replaces its predecessor.
FAMILIES: dict[str, type[Backbone]] = {}

Family = TypeVar('Family', bound=type[Backbone])


def register_family(family: Family) -> Family:
    """Class decorator that makes the released variants of a family known to conversion and to error messages.

    Raises:
        ValueError: `archs` of the family is empty.
    """
    if not family.archs:
        raise ValueError(f'{family.__name__}.archs is empty: add the released architectures by name.')
    FAMILIES[_full_name(family)] = family
    return family


def registered_family(backbone: type[Backbone]) -> type[Backbone] | None:
    """Returns the registered family that a class is or inherits from, or None.

    If a family was registered several times under one name, in a notebook, this is the latest class.
    """
    return next((FAMILIES[name] for name in map(_full_name, backbone.__mro__) if name in FAMILIES), None)


def _full_name(kind: type) -> str:
    return f'{kind.__module__}.{kind.__qualname__}'


def _unwrap(state_dict: dict, prefix: str) -> None:
    """Replaces the content of `state_dict` by the tensors in it.

    Released files store them under a key such as `model`. MMEngine unwraps only the key `state_dict` and passes the
    whole content of other files to `load_state_dict`.
    """
    if state_dict and not prefix and not any(isinstance(value, Tensor) for value in state_dict.values()):
        tensors = unwrap_state_dict(dict(state_dict))
        state_dict.clear()
        state_dict.update(tensors)


@cache
def _block_shapes(family: type[Backbone], arch: str) -> dict[str, torch.Size]:
    tensors = family.without_weights(arch=arch).state_dict()
    return {key: tensor.shape for key, tensor in tensors.items() if key.startswith('layers.')}
