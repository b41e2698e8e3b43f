"""Moves `pretrained` of a backbone in a config into its `init_cfg`, so that only a training reads the file."""

from collections.abc import Iterator
from typing import Any

from mmengine.config import Config
from mmengine.registry import MODELS


def defer_pretrained(cfg: Config) -> None:
    """Changes the backbones of this package in a config, in place.

    Their constructors load the file of `pretrained` at once, which a test neither needs nor has. `pretrained` may be an
    argument of the backbone or, in mmseg, of the segmentor.
    """
    for model in _mappings(cfg.get('model')):
        backbone = model.get('backbone')
        if not isinstance(backbone, dict) or not _is_own(backbone.get('type')):
            continue
        for owner in (backbone, model):
            if isinstance(owner.get('pretrained'), str) and not backbone.get('init_cfg'):
                backbone['init_cfg'] = dict(type='Pretrained', checkpoint=owner.pop('pretrained'))


def _is_own(kind: Any) -> bool:
    backbone = MODELS.get(kind) if isinstance(kind, str) else kind
    return hasattr(backbone, 'rename_checkpoint_key')


def _mappings(node: Any) -> Iterator[dict]:
    if isinstance(node, dict):
        yield node
        node = list(node.values())
    if isinstance(node, (list, tuple)):
        for item in node:
            yield from _mappings(item)
