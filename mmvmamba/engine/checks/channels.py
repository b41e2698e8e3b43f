"""Compares the channels of the images with those that the backbone expects."""

from typing import Any

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
