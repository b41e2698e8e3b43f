"""Finds outputs of a backbone that neither the neck nor a head reads."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

SIDE = 64  # pixels of the image that is passed through the backbone


def unread_parameters(model: Any) -> list[str]:
    """Returns the parameters of the backbone that a loss cannot reach, such as the norm of an output that is not read.

    A small image is passed through the backbone and the neck, both in evaluation mode. The heads of mmseg read the
    outputs of `in_index`, a classifier of mmpretrain the last output, and the heads of mmdet all outputs of the neck.

    Returns:
        Names, such as 'backbone.outnorm0.weight'. The list is empty for a backbone without `in_channels`, and for a
        neck that needs other inputs than the outputs of the backbone.
    """
    backbone = getattr(model, 'backbone', None)
    channels = getattr(backbone, 'in_channels', None)
    if not isinstance(backbone, nn.Module) or not isinstance(channels, int):
        return []
    parameters = {name: p for name, p in backbone.named_parameters('backbone') if p.requires_grad}
    if not parameters:
        return []
    image = next(iter(parameters.values())).new_zeros(1, channels, SIDE, SIDE)
    was_training = model.training
    model.eval()
    try:
        with torch.enable_grad():
            outputs = backbone(image)
            if getattr(model, 'neck', None) is not None:
                outputs = model.neck(outputs)
            read = torch.stack([outputs[index].sum() for index in _read_outputs(model, outputs)]).sum()
            gradients = torch.autograd.grad(read, list(parameters.values()), allow_unused=True)
    except (TypeError, ValueError, IndexError, AttributeError, RuntimeError):
        return []  # an unusual model: the hook finds these parameters after the first step
    finally:
        model.train(was_training)
    return [name for name, gradient in zip(parameters, gradients) if gradient is None]


def _read_outputs(model: Any, outputs: Sequence[Tensor]) -> set[int]:
    """The positions of the outputs that the heads read."""
    indices = [module.in_index for module in model.modules() if hasattr(module, 'in_index')]
    if indices:  # mmseg: an integer or several, for each head
        return {i for index in indices for i in (index if isinstance(index, Sequence) else [index])}
    if getattr(model, 'head', None) is not None:  # mmpretrain
        return {len(outputs) - 1}
    return set(range(len(outputs)))
