"""Random numbers that depend only on the seed and on the position in the training.

The position of a sample is the number of samples that this rank has loaded before it, counted over all epochs. The
position of a step is its iteration. A resumed run therefore draws the same numbers as an uninterrupted one, in the main
process and in any number of data loader workers. A checkpoint only needs to contain the seed.
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

# The first number of each seed, so that a step and a sample never have the same seed.
STEP, SAMPLE = range(2)


@HOOKS.register_module()
class SeedByPositionHook(Hook):
    """Seeds Python, NumPy and PyTorch before each step and before each sample.

    The seed of a step depends on `randomness.seed`, the rank and the number of the step; the seed of a sample on its
    position in the training. The data loader must have a batch sampler and a map-style dataset, as the data loaders of
    mmdet, mmseg and mmpretrain have. The shipped configs contain
    `default_hooks=dict(seeding=dict(type='mmvmamba.engine.hooks.seed_by_position.SeedByPositionHook'))`.
    """

    priority = 'VERY_HIGH'

    def before_train(self, runner: Runner) -> None:
        loader: Any = runner.train_dataloader  # Any: a type checker would not allow the assignments below
        # DataLoader calls this method of a dataset to load a whole batch, also in the workers
        loader.dataset.__getitems__ = SeededLoading(loader.dataset, runner.seed)
        sampler = loader.batch_sampler.sampler
        loader.batch_sampler.sampler = PositionedSampler(sampler, runner)
        # Iteration-based loops of MMEngine before 0.10.8 have requested batches by now: request them again.
        restart_early_loading(getattr(runner.train_loop, 'dataloader_iterator', None), loader, sampler)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        seed_everything(runner.seed, STEP, get_rank(), runner.iter)

    def after_train(self, runner: Runner) -> None:
        loader: Any = runner.train_dataloader
        del loader.dataset.__getitems__
        loader.batch_sampler.sampler = loader.batch_sampler.sampler.sampler


class PositionedIndex(int):
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
        # On resume, an iteration-based loop whose sampler cannot skip samples loads all earlier ones again, so
        # positions start from 0. In all other cases, the iteration of the runner gives the next position.
        skips = type(batch_sampler) is BatchSampler and hasattr(sampler, 'skip')
        self.replays_on_resume = hasattr(runner.train_loop, 'dataloader_iterator') and not skips
        self.next_position = 0

    def __iter__(self) -> Iterator[PositionedIndex]:
        start = self.next_position if self.replays_on_resume else self.runner.iter * self.batch_size
        for position, index in enumerate(self.sampler, start):
            self.next_position = position + 1
            yield PositionedIndex(index, position)

    def __len__(self) -> int:
        return len(self.sampler)


class SeededLoading:
    """Loads samples of a dataset, each with random numbers that depend on its position."""

    def __init__(self, dataset: Dataset, seed: int):
        self.dataset = dataset
        self.seed = seed
        self.rank = get_rank()

    def __call__(self, indices: Sequence[PositionedIndex]) -> list:
        return [self._load(index) for index in indices]

    def _load(self, index: PositionedIndex) -> Any:
        # Batches that MMEngine before 0.10.8 has requested before this hook have plain indices; they are not used.
        if isinstance(index, PositionedIndex):
            seed_everything(self.seed, SAMPLE, self.rank, index.position)
        return self.dataset[int(index)]


def seed_everything(*entropy: int) -> None:
    """Seeds the generators of Python, NumPy and PyTorch, on all devices, with a hash of these numbers."""
    first, second = np.random.SeedSequence(entropy).generate_state(2)
    random.seed(int(first))
    np.random.seed(first)
    torch.manual_seed(int(first) << 32 | int(second))
