"""A resumed training gives exactly the result of the uninterrupted one."""

import random

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, MODELS
from torch import nn
from torch.utils.data import Dataset

from mmvmamba.engine.libraries import register_modules
from mmvmamba.engine.newest_checkpoint import newest_complete_checkpoint
from mmvmamba.engine.runner import build_runner


@MODELS.register_module()
class Noisy(BaseModel):
    """Draws from all three generators in a step."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 1))

    def forward(self, inputs, mode='tensor'):
        inputs = torch.stack(inputs) + random.random() + np.random.rand()
        return {'loss': self.layer(inputs).square().mean()}


@DATASETS.register_module()
class Augmented(Dataset):
    """Draws from all three generators for a sample."""

    def __len__(self):
        return 7

    def __getitem__(self, index):
        return {'inputs': torch.tensor([index, random.random(), np.random.rand()]) + torch.rand(3)}

    def get_data_info(self, index):
        return dict(width=index % 3, height=1)


LOOPS = {
    'iterations': (dict(type='IterBasedTrainLoop', max_iters=8), 'InfiniteSampler', False),
    'iterations of epochs': (dict(type='IterBasedTrainLoop', max_iters=8), 'DefaultSampler', False),
    'epochs': (dict(type='EpochBasedTrainLoop', max_epochs=4), 'DefaultSampler', True),
}


def config(work_dir, loop, workers, seed=3):
    train_cfg, sampler, by_epoch = LOOPS[loop]
    hooks = dict(
        checkpoint=dict(type='CheckpointHook', interval=1, by_epoch=by_epoch),
        seeding=dict(type='mmvmamba.engine.hooks.seed_by_position.SeedByPositionHook'),
    )
    loader = dict(batch_size=2, num_workers=workers, sampler=dict(type=sampler, shuffle=True))
    return Config(
        dict(
            default_scope='mmengine',
            model=dict(type='Noisy'),
            work_dir=str(work_dir),
            train_dataloader=loader | dict(dataset=dict(type='Augmented')),
            train_cfg=train_cfg,
            optim_wrapper=dict(optimizer=dict(type='AdamW', lr=0.1)),
            default_hooks=hooks,
            randomness=dict(seed=seed),
        )
    )


def final_state(folder):
    newest = newest_complete_checkpoint(folder)
    content = torch.load(newest, weights_only=False)
    state = content['optimizer']['state']
    return [*content['state_dict'].values(), *(tensor for entry in state.values() for tensor in entry.values())]


@pytest.mark.parametrize('seed', [3, None])
@pytest.mark.parametrize(
    'loop, at', [('iterations', 'iter_3'), ('iterations of epochs', 'iter_6'), ('epochs', 'epoch_2')]
)
def test_resumed_equals_uninterrupted(loop, at, seed, tmp_path):
    """With other numbers of workers, too."""
    build_runner(config(tmp_path / 'whole', loop, workers=0, seed=seed)).train()
    cfg = config(tmp_path / 'rest', loop, workers=2, seed=seed)
    cfg.load_from, cfg.resume = str(tmp_path / f'whole/{at}.pth'), True
    build_runner(cfg, needs_training_state=True).train()
    expected, found = final_state(tmp_path / 'whole'), final_state(tmp_path / 'rest')
    assert len(found) == len(expected) > 8
    assert all(torch.equal(a, b) for a, b in zip(found, expected))


def test_resumed_equals_uninterrupted_in_batches_of_one_orientation(tmp_path):
    """As the COCO configs have them: mmdet's batch sampler asks the sampler for its data set."""
    pytest.importorskip('mmdet')
    register_modules('mmdet')
    whole, rest = (config(tmp_path / name, 'epochs', workers=0) for name in ('whole', 'rest'))
    for cfg in (whole, rest):
        cfg.train_dataloader.batch_sampler = dict(type='mmdet.AspectRatioBatchSampler')
    build_runner(whole).train()
    rest.load_from, rest.resume = str(tmp_path / 'whole/epoch_2.pth'), True
    build_runner(rest, needs_training_state=True).train()
    for one, other in zip(final_state(tmp_path / 'whole'), final_state(tmp_path / 'rest')):
        assert torch.equal(one, other)


@pytest.mark.parametrize('start', ['fork', 'forkserver', 'spawn'])
def test_workers_load_the_same_however_they_start(start, tmp_path):
    """As `multiprocessing_context` of a data loader; the workers stay between epochs."""
    build_runner(config(tmp_path / 'none', 'epochs', workers=0)).train()
    cfg = config(tmp_path / start, 'epochs', workers=1)
    cfg.train_dataloader.update(multiprocessing_context=start, persistent_workers=True)
    build_runner(cfg).train()
    for one, other in zip(final_state(tmp_path / 'none'), final_state(tmp_path / start)):
        assert torch.equal(one, other)


def test_every_step_and_sample_draws_other_numbers(tmp_path):
    drawn = []

    class Watch(Augmented):
        def __getitem__(self, index):
            sample = super().__getitem__(index)
            drawn.append(tuple(sample['inputs'].tolist()))
            return sample

    DATASETS.register_module(name='Watch', module=Watch, force=True)
    cfg = config(tmp_path, 'epochs', workers=0)
    cfg.train_dataloader.dataset.type = 'Watch'
    build_runner(cfg).train()
    assert len(set(drawn)) == len(drawn) == 4 * 7 or len(set(drawn)) == len(drawn) == 4 * 8
