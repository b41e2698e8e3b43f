"""What the backbones share as modules of MMEngine: how they load, start and freeze."""

from functools import cache

import torch
from mmengine.logging import print_log
from mmengine.model import BaseModule
from mmengine.model.weight_init import update_init_info
from torch import Tensor

from ..checkpoint import CheckpointError, load_pretrained


class Backbone(BaseModule):
    """A backbone that loads all of its weights or raises, and says so when it starts from random ones.

    MMEngine loads with ``strict=False`` and only warns about what does not match. Here the check is part of the module,
    so it holds for every tool that loads a model; `CheckpointError` lists the tensors that do not fit. To load a part
    on purpose, call `load_state_dict` on that part.
    """

    # Beginnings of names: of tensors that a classification file lacks, and of those that only a classifier has.
    absent_in_classifier: tuple[str, ...] = ()
    absent_in_backbone: tuple[str, ...] = ()

    # The released architectures by name.
    archs: dict[str, dict] = {}

    @staticmethod
    def official_name(name: str) -> str:
        """The parameter's name here, for a name in any released file."""
        return name

    @classmethod
    def released_variant(cls, tensors: dict[str, Tensor]) -> str | None:
        """The first of `archs` whose blocks have the names and shapes of these tensors."""
        for arch in cls.archs:
            shapes = _block_shapes(cls, arch)
            held = {
                name if name in shapes else cls.official_name(name): tensor
                for name, tensor in tensors.items()
                if name.startswith('layers.')
            }
            if held.keys() == shapes.keys() and all(_reshape(held[name], shapes[name]) is not None for name in held):
                return arch
        return None

    def frozen_modules(self) -> list:
        """The modules that `frozen_stages` freezes."""
        return []

    def layer_of(self, name: str) -> int:
        """0 for a parameter before the blocks, i for one of the i-th block, num_blocks + 1 for one after them."""
        raise NotImplementedError

    @property
    def num_blocks(self) -> int:
        raise NotImplementedError

    def get_layer_depth(self, param_name: str, prefix: str = '') -> tuple[int, int]:
        """Depth of a parameter for layer-wise learning rates, and the number of depths.

        mmpretrain's protocol: 0 is what comes before the blocks, the last depth what comes after them; a name that does
        not start with `prefix` belongs to a neck or a head, and so to the last depth.
        """
        last = self.num_blocks + 1
        return self.layer_of(param_name[len(prefix) :]) if param_name.startswith(prefix) else last, last + 1

    def init_weights(self) -> None:
        if not self.init_cfg:
            print_log(f'{type(self).__name__} starts from random weights: its init_cfg is None.', logger='current')
        if not isinstance(self.init_cfg, dict) or self.init_cfg['type'] != 'Pretrained':
            super().init_weights()
            return
        prefix, ema = self.init_cfg.get('prefix') or '', self.init_cfg.get('ema', False)
        load_pretrained(self, self.init_cfg['checkpoint'], prefix, ema)
        self._is_init = True
        if hasattr(self, '_params_init_info'):
            update_init_info(self, f'Pretrained: load from {self.init_cfg["checkpoint"]}')

    def train(self, mode: bool = True):
        super().train(mode)
        self._freeze_stages()
        return self

    def _freeze_stages(self) -> None:
        for module in self.frozen_modules():
            module.eval()
            module.requires_grad_(False)

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args) -> None:
        """Rename and reshape what is known, then raise unless everything fits."""
        own = {prefix + name: tensor for name, tensor in self.state_dict().items()}
        file = {key[len(prefix) :]: tensor for key, tensor in state_dict.items() if key.startswith(prefix)}
        surplus, misshapen = [], {}
        for key in [key for key in state_dict if key.startswith(prefix)]:
            name = key if key in own else prefix + self.official_name(key[len(prefix) :])
            tensor = state_dict.pop(key)
            if name not in own:
                surplus.append(key)
                continue
            state_dict[name] = _reshape(tensor, own[name].shape)
            if state_dict[name] is None:
                misshapen[name] = f'{key} {tuple(tensor.shape)} (here {tuple(own[name].shape)})'
        missing = [name for name in own if name not in state_dict]

        fresh = self._beginning(own, prefix, self.absent_in_classifier)
        if set(fresh) <= set(missing):
            missing = [name for name in missing if name not in fresh]
            state_dict.update((name, own[name]) for name in fresh)
        left = self._beginning(surplus, prefix, self.absent_in_backbone)
        surplus = [key for key in surplus if key not in left]
        problems = (
            ('lacks', missing),
            ('holds, but the model does not,', surplus),
            ('has another shape for', list(misshapen.values())),
        )
        if found := [f'it {what} {_some(names)}' for what, names in problems if names]:
            raise CheckpointError(f'{self._misfit(file)}: {"; ".join(found)}.')
        if left:
            print_log(f'{type(self).__name__} leaves out of the checkpoint: {", ".join(left)}.', logger='current')
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _misfit(self, file: dict[str, Tensor]) -> str:
        """What is wrong in a word, if the file is another released variant."""
        asked = type(self).__name__
        for family in Backbone.__subclasses__():
            if (held := family.released_variant(file)) and (own := self.released_variant(self.state_dict())) != held:
                return f'This file is {family.__name__} {held}, the config asks for {asked} {own or "of other sizes"}'
        return f'This checkpoint does not fit {asked}'

    @staticmethod
    def _beginning(names, prefix: str, beginnings: tuple[str, ...]) -> list[str]:
        return [name for name in names if name.startswith(tuple(prefix + beginning for beginning in beginnings))]


@cache
def _block_shapes(family: type[Backbone], arch: str) -> dict[str, torch.Size]:
    with torch.device('meta'):
        tensors = family(arch=arch).state_dict()
    return {name: tensor.shape for name, tensor in tensors.items() if name.startswith('layers.')}


def _reshape(tensor: Tensor, shape) -> Tensor | None:
    """The tensor in this shape, if it differs only in grouping or trailing ones (a 1x1 convolution), else None."""
    if tensor.shape == shape:
        return tensor
    ungrouped = (shape[0] * shape[1], *shape[2:]) if len(shape) > 2 else None
    trimmed = tuple(tensor.shape)
    while len(trimmed) > len(shape) and trimmed[-1] == 1:
        trimmed = trimmed[:-1]
    return tensor.reshape(shape) if trimmed in (tuple(shape), ungrouped) else None


def _some(names: list[str]) -> str:
    return ', '.join(names[:10]) + (f' and {len(names) - 10} more' if len(names) > 10 else '')
