"""The effective receptive field of a backbone: how much each pixel matters to the centre of its last map."""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn

from ..engine.errors import LaunchError


def receptive_field(backbone: nn.Module, images: Iterable[Tensor]) -> Tensor:
    """The mean over images of what each pixel adds to the centre of the last map.

    An image's part is the gradient of the sum over channels of relu(map at h // 2, w // 2) with respect to the image;
    its positive values are summed over the three colours.
    Source: Luo et al. (arXiv 1701.04128), in the form of RepLKNet (arXiv 2203.06717, section 4 and Appendix D), which
    the VMamba paper takes (section 5.4).

    Args:
        backbone: in evaluation mode; gives maps (1, C, h, w), of which the last counts.
        images: each (1, 3, H, W), all of one size.

    Returns:
        (H, W), float64, on the CPU.

    Raises:
        LaunchError: the backbone gives no map.
    """
    total, count = 0, 0
    for image in images:
        image = image.detach().requires_grad_()
        outputs = backbone(image)
        last = outputs[-1] if isinstance(outputs, (tuple, list)) else outputs
        if not isinstance(last, Tensor) or last.dim() != 4:
            raise LaunchError(
                f'{type(backbone).__name__} is set to give one feature, not maps: take a config of a detector or '
                'segmentor, or leave its pooling out'
            )
        centre = last[0, :, last.shape[2] // 2, last.shape[3] // 2]
        (gradient,) = torch.autograd.grad(centre.relu().sum(), image)
        total, count = total + gradient.relu().sum((0, 1)).double().cpu(), count + 1
    if count == 0:
        raise ValueError('There must be at least one image.')
    return total / count


def area_holding(field: Tensor | np.ndarray, share: float) -> float:
    """The part of the image in the smallest rectangle around its centre that holds this share of the receptive field.

    The rectangle has the sides of the image, in proportion. Source: RepLKNet (arXiv 2203.06717), Table 10.

    Args:
        field: (H, W), not negative.
        share: 0 to 1.

    Returns:
        0 to 1; NaN for a field that is zero everywhere.
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
