"""Compares the scales to which the pipelines of training and testing resize images."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from math import exp, log
from typing import Any

import numpy as np
import torch

from .label_maps import spread

SAMPLES = 8
# Networks are robust to objects that are twice as large as in training, but not to larger ones.
MOST = 2.0


def load_samples(dataset: Any) -> list[Any]:
    """Returns some samples as the pipeline produces them, without a change of the random numbers of a training.

    Datasets that are not of MMEngine, which have no `metainfo`, are not read.
    """
    if not all(hasattr(dataset, name) for name in ('metainfo', '__len__', '__getitem__')):
        return []
    with _random_state_kept():
        return [dataset[index] for index in spread(len(dataset), SAMPLES)]


def image_scale(samples: list[Any]) -> float | None:
    """Returns the mean of `scale_factor` (resized / original side) of samples, or None if it is missing."""
    factors = [
        sample['data_samples'].metainfo.get('scale_factor')
        for sample in samples
        if isinstance(sample, dict) and hasattr(sample.get('data_samples'), 'metainfo')
    ]
    logarithms = [log(float(np.prod(factor)) ** (1 / np.size(factor))) for factor in factors if factor is not None]
    return exp(sum(logarithms) / len(logarithms)) if logarithms else None


def scale_warning(train: float | None, test: float | None, name: str) -> str | None:
    """Returns a sentence if test images are more than `MOST` times as large or small as training images, else None.

    Args:
        train, test: from `image_scale`.
        name: of the test data.
    """
    if train is None or test is None or 1 / MOST <= test / train <= MOST:
        return None
    return (
        f'the pipeline of {name} resizes images to {test:.2g} times their size, but that of the training data to '
        f'{train:.2g} times: objects have another size in testing; use the same Resize scale in both pipelines'
    )


@contextmanager
def _random_state_kept() -> Iterator[None]:
    """Restores the random number generators, so that a check does not change a training."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
