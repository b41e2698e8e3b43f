"""A resumed training ends where the uninterrupted one ends, bit by bit; a damaged checkpoint is passed over."""

import random

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.fileio import get_file_backend
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, MODELS
from torch import nn
from torch.utils.data import Dataset

from mmvmamba.engine.errors import LaunchError
from mmvmamba.engine.launch import build_runner
from mmvmamba.engine.libraries import register_modules
from mmvmamba.engine.whole_files import (
    WholeFileBackend,
    last_named,
    newest_whole_checkpoint,
    write_whole_files,
)


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
        seeding=dict(type='mmvmamba.engine.seeding.SeedByPositionHook'),
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
    newest = newest_whole_checkpoint(folder)
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


@pytest.fixture
def folder(tmp_path):
    for number in (2, 4, 10):
        torch.save({'state_dict': {'weight': torch.ones(100)}}, tmp_path / f'iter_{number}.pth')
    return tmp_path


@pytest.mark.parametrize('content', [b'', b'\x80\x04', None], ids=['empty', 'other', 'cut'])
def test_damaged_newest_checkpoint_is_passed_over(folder, content):
    newest = folder / 'iter_10.pth'
    assert newest_whole_checkpoint(folder) == newest
    newest.write_bytes(newest.read_bytes()[:300] if content is None else content)
    assert newest_whole_checkpoint(folder) == folder / 'iter_4.pth'
    for number in (2, 4):
        (folder / f'iter_{number}.pth').write_bytes(b'')
    with pytest.raises(LaunchError, match='none of the 3 checkpoints in .* is whole'):
        newest_whole_checkpoint(folder)


@pytest.mark.parametrize('content', ['', '\x80\x04', 'gone/iter_3.pth', 'relative.pth', '\0'])
def test_last_checkpoint_that_names_nothing(tmp_path, content):
    (tmp_path / 'last_checkpoint').write_text(content, encoding='latin-1')
    assert last_named(tmp_path) is None
    assert last_named(tmp_path / 'none') is None
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'last_checkpoint'))
    assert last_named(tmp_path) == tmp_path / 'last_checkpoint'


def full_disk(_):
    raise OSError(28, 'No space left on device')


def test_old_checkpoint_goes_when_the_new_one_is_whole(tmp_path, monkeypatch):
    write_whole_files()
    backend = get_file_backend(str(tmp_path))
    assert type(backend) is WholeFileBackend
    old, new = tmp_path / 'iter_1.pth', tmp_path / 'iter_2.pth'
    old.write_bytes(b'old')
    backend.remove(str(old))
    with monkeypatch.context() as patch:
        patch.setattr('os.fsync', full_disk)
        with pytest.raises(OSError, match='No space'):
            get_file_backend(str(tmp_path)).put(b'new', str(new))
    assert list(tmp_path.iterdir()) == [old]
    get_file_backend(str(tmp_path)).put(b'new', str(new))
    assert not old.exists()
    assert new.read_bytes() == b'new'


def test_only_a_checkpoint_makes_an_older_one_go(tmp_path):
    backend, old = WholeFileBackend(), tmp_path / 'iter_1.pth'
    for gone in (False, True):
        old.write_bytes(b'old')
        backend.remove(str(old))
        backend.put(b'picture', str(tmp_path / 'picture.png'))
        assert old.exists()
        if gone:
            old.unlink()
        backend.put(b'new', str(tmp_path / 'iter_2.pth'))
        assert not old.exists() and (tmp_path / 'iter_2.pth').exists()
