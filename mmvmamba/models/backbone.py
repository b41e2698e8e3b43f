"""What the backbones share as modules of MMEngine: how they load, start and freeze."""

from collections.abc import Iterable
from functools import cache

import torch
from mmengine.logging import print_log
from mmengine.model import BaseModule
from mmengine.model.weight_init import update_init_info
from torch import Tensor, nn

from ..checkpoint import CheckpointError, fit, load_pretrained, unwrap_state_dict
from ..checkpoint.matching import reshaped
from ..checkpoint.placing import classifier_place, norms_of_the_one_output
from ..checkpoint.prefixes import renaming_advice, unknown_prefixes
from .validation import pretrained_init_cfg


class Backbone(BaseModule):
    """A backbone that loads all of its weights or raises, and says so when it starts from random ones.

    MMEngine loads with `strict=False` and only warns about what does not match. Here the check is part of the module,
    so it holds for every tool that loads a model; `CheckpointError` lists the tensors that do not fit. To load a part
    on purpose, call `load_state_dict` on that part.

    What a family says of its released files: `archs`, the three tables of names, `own_name`, `adapt`, `says_nothing`
    and `variant_of`.
    """

    # The released architectures by name.
    archs: dict[str, dict] = {}

    # Beginnings of names: of tensors that a classification file lacks, and of those that only a classifier has.
    absent_in_classifier: tuple[str, ...] = ()
    absent_in_backbone: tuple[str, ...] = ()

    # Beginnings of names in a classification file, where an mmpretrain `ImageClassifier` has others; of several that
    # stand for the same, the first is the one to write.
    classifier_names: dict[str, str] = {'head.': 'head.fc.'}

    def __init__(self, init_cfg: dict | list | None, pretrained: str | None):
        super().__init__(pretrained_init_cfg(init_cfg, pretrained))

    @staticmethod
    def own_name(name: str) -> str:
        """The parameter's name here, for a name in any released file."""
        return name

    def adapt(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """The tensors of a file, under its names, with those resized that depend on the size of an image."""
        return tensors

    def says_nothing(self, names: Iterable[str]) -> set[str]:
        """Those names of a file that mean something else than in this model, which has to do without."""
        return set()

    @classmethod
    def variant_of(cls, tensors: dict[str, Tensor]) -> dict | None:
        """The arguments, `arch` first, of the released variant whose blocks have these names and shapes."""
        for arch in cls.archs:
            shapes = _block_shapes(cls, arch)
            held = {
                name if name in shapes else cls.own_name(name): tensor
                for name, tensor in tensors.items()
                if name.startswith('layers.')
            }
            if held.keys() == shapes.keys() and all(reshaped(held[name], shapes[name]) is not None for name in held):
                return dict(arch=arch)
        return None

    @classmethod
    def resemblance(cls, names: Iterable[str]) -> int:
        """How many of these names, without prefix, a first layer of this family has: the highest family's they are."""
        first = 'layers.0.'
        known = {name for name in _block_shapes(cls, next(iter(cls.archs))) if name.startswith(first)}
        return len(known.intersection(cls.own_name(name) for name in names if name.startswith(first)))

    def misfit(self, tensors: dict[str, Tensor]) -> str:
        """What is wrong in a word with a file that does not fit: which released variant it is, if it is another."""
        own, asked = self.variant_of(self.state_dict()), type(self).__name__
        for family in Backbone.__subclasses__():
            held = family.variant_of(tensors)
            if held and not (own and isinstance(self, family) and own['arch'] == held['arch']):
                of = own['arch'] if own else 'of other sizes'
                return f'This file is {family.__name__} {held["arch"]}, the config asks for {asked} {of}'
        return f'This checkpoint does not fit {asked}'

    def frozen_modules(self) -> list[nn.Module]:
        """What `frozen_stages` freezes: at 0 what comes before the layers, then one layer after the other."""
        return [self.patch_embed, *self.layers[: self.frozen_stages]] if self.frozen_stages >= 0 else []

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

    def _checkpoint_filter(self, state_dict: dict, prefix: str, *args) -> None:
        """Rename the tensors of a released classifier to those of mmpretrain's `ImageClassifier`.

        mmpretrain's protocol: an `ImageClassifier` calls this method of its backbone before it loads, so that
        mmpretrain's own inferencer takes released files.
        """
        _unwrap(state_dict, prefix)
        names = {key: key.removeprefix(prefix) for key in state_dict if key.startswith(prefix)}
        if any(name.startswith('backbone.') for name in names.values()):
            return
        if prefixes := unknown_prefixes(self, names.values()):
            raise CheckpointError(renaming_advice(self, prefix + prefixes[0], prefix))
        for key, name in names.items():
            state_dict[prefix + (classifier_place(self, name) or f'backbone.{name}')] = state_dict.pop(key)

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args) -> None:
        """Give the tensors their names and shapes here, or raise; what a classifier's file lacks stays as it is."""
        _unwrap(state_dict, prefix)
        part = {key[len(prefix) :]: state_dict.pop(key) for key in list(state_dict) if key.startswith(prefix)}
        if prefix and not part:
            raise CheckpointError(
                f'the file has no tensor whose name starts with {prefix!r}: '
                'python tools/model_converters/convert_checkpoint.py FILE OUT.pth converts a released classifier, and '
                'reports the prefix of other files'
            )
        for name in self.says_nothing(part):
            del part[name]
        for name, own_name in norms_of_the_one_output(self, part).items():
            part[own_name] = part.pop(name)
        try:
            found = fit(self, part)
        except CheckpointError as error:
            known = ['backbone.'] if any(name.startswith('backbone.') for name in part) else []
            if prefixes := unknown_prefixes(self, part) or known:
                raise CheckpointError(renaming_advice(self, prefix + prefixes[0], prefix)) from error
            raise
        own = self.state_dict()
        tensors = found.taken | {name: own[name] for name in found.fresh}
        state_dict.update((prefix + name, tensor) for name, tensor in tensors.items())
        super()._load_from_state_dict(state_dict, prefix, *args)


def _unwrap(state_dict: dict, prefix: str) -> None:
    """Replace the content of a released file by its tensors: mmengine passes a file without `state_dict` as it is."""
    if state_dict and not prefix and not any(isinstance(value, Tensor) for value in state_dict.values()):
        tensors = unwrap_state_dict(dict(state_dict))
        state_dict.clear()
        state_dict.update(tensors)


@cache
def _block_shapes(family: type[Backbone], arch: str) -> dict[str, torch.Size]:
    with torch.device('meta'):
        tensors = family(arch=arch).state_dict()
    return {name: tensor.shape for name, tensor in tensors.items() if name.startswith('layers.')}
