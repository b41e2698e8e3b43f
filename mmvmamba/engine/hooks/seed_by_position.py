"""Random numbers that depend on where a training is, not on how it came there.

A resumed run draws the numbers that the uninterrupted one would have drawn, in the main process and in the workers that
load data, whatever their number: nothing random needs to be kept in a checkpoint but the seed.
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

# What the numbers are for: those of a step and those of a sample never share a seed.
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
        # the protocol by which DataLoader asks a data set for a whole batch; set here, it reaches every worker
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
    """An index into a data set that knows the how-manieth sample of the training it is."""

    position: int

    def __new__(cls, index: int, position: int):
        self = super().__new__(cls, index)
        self.position = position
        return self

    def __getnewargs__(self) -> tuple[int, int]:
        return int(self), self.position


class PositionedSampler(Sampler):
    """The indices of another sampler, each with its position in the training."""

    def __init__(self, sampler: Any, runner: Runner):
        batch_sampler: Any = runner.train_dataloader.batch_sampler
        self.sampler = sampler
        self.dataset = getattr(sampler, 'dataset', None)  # mmdet's AspectRatioBatchSampler asks for it here
        self.runner = runner
        self.batch_size = batch_sampler.batch_size
        # An iteration-based loop that cannot skip in the sampler walks it from its beginning when it resumes.
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
    """Loads samples of a data set, each under numbers that its position chooses."""

    def __init__(self, dataset: Dataset, seed: int):
        self.dataset = dataset
        self.seed = seed
        self.rank = get_rank()

    def __call__(self, indices: Sequence[Position]) -> list:
        return [self._load(index) for index in indices]

    def _load(self, index: Position) -> Any:
        if isinstance(index, Position):  # MMEngine before 0.10.8 takes the first batches before any hook
            seed_everything(self.seed, SAMPLE, self.rank, index.position)
        return self.dataset[int(index)]


def seed_everything(*entropy: int) -> None:
    """Seeds the generators of Python, NumPy and PyTorch, on all devices, by a mixture of these numbers."""
    first, second = np.random.SeedSequence(entropy).generate_state(2)
    random.seed(int(first))
    np.random.seed(first)
    torch.manual_seed(int(first) << 32 | int(second))
