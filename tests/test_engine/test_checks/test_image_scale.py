"""Training and testing at different scales are noticed, without changing the random numbers of the training."""

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from mmvmamba.engine.checks.image_scale import image_scale, load_samples, scale_warning


class Images(Dataset):
    metainfo = {}

    def __init__(self, *factors):
        self.factors = factors

    def __len__(self):
        return len(self.factors)

    def __getitem__(self, index):
        random.random(), np.random.rand(), torch.rand(1)
        metainfo = {} if self.factors[index] is None else dict(scale_factor=self.factors[index])
        return dict(inputs=torch.zeros(1), data_samples=SimpleNamespace(metainfo=metainfo))


def test_the_scale_is_the_geometric_mean():
    assert image_scale(load_samples(Images((0.5, 0.5), (2.0, 2.0)))) == pytest.approx(1)
    assert image_scale(load_samples(Images((0.25, 1.0)))) == pytest.approx(0.5)  # width and height
    assert image_scale(load_samples(Images((0.5, 0.5), None))) == pytest.approx(0.5)
    assert image_scale(load_samples(Images(None))) is None
    assert image_scale(load_samples(Images())) is None
    assert image_scale(load_samples(iter([1]))) is None


@pytest.mark.parametrize('test, is_warned', [(0.2, False), (0.39, False), (0.41, True), (1.0, True), (0.09, True)])
def test_more_than_twice_or_less_than_half_is_unusual(test, is_warned):
    sentence = scale_warning(0.2, test, 'the validation data')
    assert bool(sentence) is is_warned
    if is_warned:
        assert (
            f'the validation data resizes images to {test:.2g} times their size, but that of the training' in sentence
        )
    assert scale_warning(None, test, 'it') is None and scale_warning(0.2, None, 'it') is None


def test_other_datasets_are_not_read():
    assert load_samples([0, 1]) == []


def test_random_numbers_are_unchanged():
    def numbers(check):
        random.seed(0), np.random.seed(0), torch.manual_seed(0)
        if check:
            image_scale(load_samples(Images((0.5, 0.5), (2.0, 2.0))))
        return random.random(), np.random.rand(), torch.rand(1).item()

    assert numbers(True) == numbers(False)
