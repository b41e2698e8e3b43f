"""Random numbers that depend only on the seed and on the position in the training.

A resumed run therefore draws the same numbers as an uninterrupted one, in the main process and in any number of data
loader workers. A checkpoint only needs to contain the seed.
"""

import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch.utils.data import BatchSampler, Dataset, Sampler

from ..patches.early_loading import restart_early_loading

# Part of the seed, so that a step and a sample never have the same one.
STEP, SAMPLE = range(2)


@HOOKS.register_module()
class SeedByPositionHook(Hook):
    """Seeds Python, NumPy and PyTorch before each step and before each sample.

    The seed of a step depends on `randomness.seed`, the rank and the number of the step; the seed of a sample on its
    position in the training. The data loader must load batches from a dataset with a length, as those of mmdet, mmseg
    and mmpretrain do. The shipped configs contain
    `default_hooks=dict(seeding=dict(type='mmvmamba.engine.hooks.seed_by_position.SeedByPositionHook'))`.
    """

    priority = 'VERY_HIGH'

    def before_train(self, runner: Runner) -> None:
        loader: Any = runner.train_dataloader  # its dataset and its batch sampler get new attributes
        # DataLoader calls this method of a dataset to load a whole batch, also in the workers
        loader.dataset.__getitems__ = SeededLoading(loader.dataset, runner.seed)
        sampler = loader.batch_sampler.sampler
        loader.batch_sampler.sampler = PositionedSampler(sampler, runner)
        restart_early_loading(getattr(runner.train_loop, 'dataloader_iterator', None), loader, sampler)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        seed_everything(runner.seed, STEP, get_rank(), runner.iter)

    def after_train(self, runner: Runner) -> None:
        loader: Any = runner.train_dataloader
        del loader.dataset.__getitems__
        loader.batch_sampler.sampler = loader.batch_sampler.sampler.sampler


class Position(int):
    """An index into a dataset that also carries the position of the sample in the training."""

    position: int

    def __new__(cls, index: int, position: int):
        self = super().__new__(cls, index)
        self.position = position
        return self

    def __getnewargs__(self) -> tuple[int, int]:
        return int(self), self.position


class PositionedSampler(Sampler):
    """Yields the indices of another sampler, each with its position in the training."""

    def __init__(self, sampler: Any, runner: Runner):
        batch_sampler: Any = runner.train_dataloader.batch_sampler
        self.sampler = sampler
        self.dataset = getattr(sampler, 'dataset', None)  # read by mmdet's AspectRatioBatchSampler
        self.runner = runner
        self.batch_size = batch_sampler.batch_size
        # When it resumes, an iteration-based loop that cannot skip samples iterates from the beginning.
        skips = type(batch_sampler) is BatchSampler and hasattr(sampler, 'skip')
        self.starts_anew = hasattr(runner.train_loop, 'dataloader_iterator') and not skips
        self.count = 0

    def __iter__(self) -> Iterator[Position]:
        start = self.count if self.starts_anew else self.runner.iter * self.batch_size
        for position, index in enumerate(self.sampler, start):
            self.count = position + 1
            yield Position(index, position)

    def __len__(self) -> int:
        return len(self.sampler)


class SeededLoading:
    """Loads samples of a dataset, each with random numbers that depend on its position."""

    def __init__(self, dataset: Dataset, seed: int):
        self.dataset = dataset
        self.seed = seed
        self.rank = get_rank()

    def __call__(self, indices: Sequence[Position]) -> list:
        return [self._load(index) for index in indices]

    def _load(self, index: Position) -> Any:
        if isinstance(index, Position):  # MMEngine before 0.10.8 loads the first batches before any hook
            seed_everything(self.seed, SAMPLE, self.rank, index.position)
        return self.dataset[int(index)]


def seed_everything(*entropy: int) -> None:
    """Seeds the generators of Python, NumPy and PyTorch, on all devices, with a hash of these numbers."""
    first, second = np.random.SeedSequence(entropy).generate_state(2)
    random.seed(int(first))
    np.random.seed(first)
    torch.manual_seed(int(first) << 32 | int(second))
