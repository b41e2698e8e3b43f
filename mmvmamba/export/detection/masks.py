"""Masks of objects in pixels of the image."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def paste(masks: Tensor, boxes: Tensor, height: int, width: int) -> Tensor:
    """Resizes the mask (N, h, w) of each box (N, 4) to the size of the box, in an image: (N, height, width).

    Bilinear interpolation with zeros outside of the mask, as mmdet's FCNMaskHead. The two directions are separate
    matrix products, which need much less memory than a grid of coordinates.
    """
    x0, y0, x1, y1 = boxes[:, :, None].unbind(1)
    rows = _interpolation(y0, y1, height, masks.shape[1])
    columns = _interpolation(x0, x1, width, masks.shape[2])
    return rows @ masks @ columns.mT


def _interpolation(begin: Tensor, end: Tensor, size: int, cells: int) -> Tensor:
    """The weight of each cell of a mask at each pixel, for boxes from `begin` to `end` (N, 1): (N, size, cells)."""
    pixel = torch.arange(size, device=begin.device)
    position = (pixel + 0.5 - begin) / (end - begin) * cells - 0.5
    weight = (1 - (position[:, :, None] - torch.arange(cells, device=begin.device)).abs()).clamp(min=0)
    near = (pixel >= begin.floor() - 1) & (pixel < end.ceil() + 1)  # the part of the image that mmdet computes
    return weight * near[:, :, None]


def dynamic_masks(head: Any, features: Tensor, kernels: Tensor, priors: Tensor) -> Tensor:
    """Applies the convolutions of each object of RTMDet-Ins.

    Args:
        head: an RTMDetInsHead.
        features: (1, C, h, w).
        kernels: (N, P), N > 0, the parameters of the convolutions.
        priors: (N, 4): x and y of the points that predicted the objects, and the strides of their levels.

    Returns:
        The logits of the masks, (1, N, height, width), in pixels of the input.
    """
    count, (h, w) = kernels.shape[0], features.shape[2:]
    grid = head.prior_generator.single_level_grid_priors((h, w), level_idx=0, device=features.device)
    relative = (priors[:, :2, None] - grid.mT) / (priors[:, 2:3, None] * 8)
    x = torch.cat([relative, features.flatten(2).expand(count, -1, -1)], 1)
    weights, biases = head.parse_dynamic_params(kernels)
    for i, (weight, bias) in enumerate(zip(weights, biases)):
        x = weight.reshape(count, -1, x.shape[1]) @ x + bias.reshape(count, -1, 1)
        x = x.relu() if i + 1 < len(weights) else x
    masks = x.reshape(1, count, h, w)
    return F.interpolate(masks, scale_factor=head.prior_generator.strides[0][0], mode='bilinear')
