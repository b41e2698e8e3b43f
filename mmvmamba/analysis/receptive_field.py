"""The effective receptive field of a backbone: how much each pixel contributes to the centre of its last map."""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn

from ..engine.errors import LaunchError


def receptive_field(backbone: nn.Module, images: Iterable[Tensor]) -> Tensor:
    """Computes the contribution of each pixel to the centre of the last map, averaged over images.

    For each image, this is the gradient of the sum over channels of relu(map at h // 2, w // 2) with respect to the
    image. Its positive values are summed over the three colour channels.
    Source: Luo et al. (arXiv 1701.04128), in the form of RepLKNet (arXiv 2203.06717, section 4 and Appendix D), which
    the VMamba paper uses (section 5.4).

    Args:
        backbone: a backbone in evaluation mode that returns maps (1, C, h, w); the last map is analysed.
        images: images (1, 3, H, W), all of the same size.

    Returns:
        (H, W), float64, on the CPU.

    Raises:
        LaunchError: the backbone does not return a map.
        ValueError: `images` is empty.
    """
    total, count = torch.zeros((), dtype=torch.float64), 0
    for image in images:
        image = image.detach().requires_grad_()
        outputs = backbone(image)
        last = outputs[-1] if isinstance(outputs, (tuple, list)) else outputs
        if not isinstance(last, Tensor) or last.dim() != 4:
            raise LaunchError(
                f'{type(backbone).__name__} returns one feature instead of maps: use the config of a detector or '
                'segmentor, or remove the pooling of the backbone'
            )
        centre = last[0, :, last.shape[2] // 2, last.shape[3] // 2]
        (gradient,) = torch.autograd.grad(centre.relu().sum(), image)
        total, count = total + gradient.relu().sum((0, 1)).double().cpu(), count + 1
    if count == 0:
        raise ValueError('There must be at least one image.')
    return total / count


def area_holding(field: Tensor | np.ndarray, share: float) -> float:
    """Computes the area of the smallest centred rectangle that contains the given share of the receptive field.

    The rectangle has the aspect ratio of the image. Source: RepLKNet (arXiv 2203.06717), Table 10.

    Args:
        field: a non-negative receptive field (H, W).
        share: the share of its sum, from 0 to 1.

    Returns:
        The area as a fraction of the image, from 0 to 1; NaN for a field that is zero everywhere.
    """
    height, width = field.shape
    total = field.sum()
    if total == 0:
        return float('nan')
    longest = max(height, width)
    for step in range(1, longest + 1):
        rows, columns = (max(1, round(step * side / longest)) for side in (height, width))
        top, left = (height - rows) // 2, (width - columns) // 2
        if field[top : top + rows, left : left + columns].sum() >= share * total:
            return rows * columns / (height * width)
    return 1.0
