"""Loads the weights of inferencers strictly. Written for the inferencers of mmdet 3 and mmseg 1."""

from collections.abc import Callable
from typing import Any

from mmengine.config import Config
from mmengine.infer import BaseInferencer
from torch import nn


def with_checked_weights(
    base: type[BaseInferencer], load_weights: Callable[[nn.Module], None], info: dict[str, Any]
) -> type[BaseInferencer]:
    """Returns a subclass whose weights come from `load_weights`. The original ignores tensors that do not fit.

    Args:
        base: DetInferencer or MMSegInferencer.
        load_weights: writes the weights into a model.
        info: `classes` and `palette`, as far as they are known.
    """

    class CheckedInferencer(base):
        def _load_weights_to_model(self, model: nn.Module, checkpoint: None, cfg: Config) -> None:
            load_weights(model)
            # the original sets the names and colours of the classes
            meta = dict(dataset_meta=dict(info, classes=info.get('classes') or ()))
            super()._load_weights_to_model(model, dict(state_dict=model.state_dict(), meta=meta), cfg)

    return CheckedInferencer
