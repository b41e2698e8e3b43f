"""Compares the channels of the images with those that the transform `Normalize` and the backbone expect."""

from typing import Any

import numpy as np
from torch import Tensor, nn

from ..errors import DataError


def check_channels(model: nn.Module, sample: Any, dataset: str) -> None:
    """Compares a sample of a dataset with `in_channels` of VMamba or Vim. Other backbones are not checked.

    A gray image has three channels after a data preprocessor with three means.

    Raises:
        DataError: names the image, what was found and what was expected.
    """
    model = getattr(model, 'module', model)
    expected = getattr(getattr(model, 'backbone', None), 'in_channels', None)
    inputs = sample.get('inputs') if isinstance(sample, dict) else None
    if not isinstance(expected, int) or not isinstance(inputs, Tensor) or inputs.ndim != 3:
        return
    found = inputs.shape[0]
    mean = getattr(getattr(model, 'data_preprocessor', None), 'mean', None)
    if found == 1 and mean is not None:
        found = len(mean)
    if found != expected:
        file = getattr(sample.get('data_samples'), 'img_path', f'an image of {dataset}')
        raise DataError(
            f'{file} has {found} channel{"s" * (found > 1)} after its pipeline, but the backbone has '
            f'in_channels={expected}: change in_channels, or the loading transform of {dataset}'
        )


def check_normalization(transform: Any, sample: dict) -> None:
    """Compares an image with the mean of the transform `Normalize`, for which OpenCV reports a wrong size only.

    Raises:
        DataError: names the image, what was found and what was expected.
    """
    image = sample.get('img')
    if type(transform).__name__ != 'Normalize' or not isinstance(image, np.ndarray) or image.ndim > 3:
        return
    found, expected = image.shape[2] if image.ndim == 3 else 1, np.size(transform.mean)
    if found != expected:
        raise DataError(
            f'{sample.get("img_path", "an image")} has {found} channel{"s" * (found > 1)}, but Normalize has '
            f'{expected} value{"s" * (expected > 1)} in mean: change mean and std, or the loading transform'
        )
