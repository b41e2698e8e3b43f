"""How much each position of an image contributes to one position, through a selective scan."""

import mmcv
import numpy as np
import torch
from torch import nn

from ..engine.errors import LaunchError
from .networks import to_input
from .scans import TokenLayout, record_scans, scan_attention

STRIDE = 16  # the weights are those of the deepest map with at most this stride


@torch.no_grad()
def attention_map(backbone: nn.Module, image: np.ndarray, x: int, y: int) -> np.ndarray:
    """Returns the weights with which pixel (x, y) attends to every pixel, summed over the traversals.

    Args:
        backbone: a VMamba or Vim in evaluation mode.
        image: RGB (height, width, 3), uint8.
        x, y: column and row of a pixel of `image`.

    Returns:
        (height, width), uint8: the square root of the weights, which makes small ones visible; 255 is the largest.

    Raises:
        LaunchError: the backbone has no selective scan, or its images have more or fewer than 3 channels.
    """
    if getattr(backbone, 'in_channels', 3) != 3:
        raise LaunchError(f'The influence on a pixel is shown for images of 3 channels, not {backbone.in_channels}')
    height, width = (max(1, round(side / 32)) * 32 for side in image.shape[:2])
    resized = np.asarray(mmcv.imresize(image, (width, height), interpolation='area'))
    scans = record_scans(backbone, to_input(resized, next(backbone.parameters()).device))
    layouts = [TokenLayout.of(backbone, scan, resized.shape[:2]) for scan in scans]
    deep = [(scan, layout) for scan, layout in zip(scans, layouts) if layout.height * STRIDE >= height]
    if not deep:
        raise LaunchError(f'{type(backbone).__name__} has no selective scan whose influence could be shown')
    scan, layout = deep[-1]
    row, column = int(y / image.shape[0] * layout.height), int(x / image.shape[1] * layout.width)
    weights = layout.to_map(scan_attention(scan, *layout.in_scan(row, column)))  # (K, height, width, channels)
    weights = weights.sum(0).abs().mean(-1).sqrt().cpu().numpy()
    return np.asarray(mmcv.imresize((255 * weights / weights.max()).astype(np.uint8), image.shape[1::-1]))
