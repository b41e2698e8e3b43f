"""What a run killed during a save leaves, the next save removes."""

from pathlib import Path

import pytest
import torch

from mmvmamba.engine.hooks.stale_checkpoints import KEY, StaleCheckpointsHook

from ..small_training import small_training

KEEP = {'default_hooks.checkpoint.max_keep_ckpts': 1}


def names(folder):
    return sorted(path.name for path in folder.glob('*.pth'))


@pytest.fixture
def killed(tmp_path, monkeypatch):
    """The folder of a run that ended between writing iter_3.pth and removing iter_2.pth."""

    def end(self, missing_ok=False):
        if 'iter_2' in str(self):
            raise KeyboardInterrupt
        unlink(self, missing_ok)

    unlink = Path.unlink
    folder = tmp_path / 'run'
    with monkeypatch.context() as patch:
        patch.setattr(Path, 'unlink', end)
        with pytest.raises(KeyboardInterrupt):
            small_training(folder, 4, StaleCheckpointsHook(), **KEEP)
    assert names(folder) == ['iter_2.pth', 'iter_3.pth']
    return folder


def test_the_next_save_removes_it(killed):
    for name in ('iter_1.pth', 'iter_30.pth', 'iter_2_backup.pth', 'mine.pth'):
        (killed / name).write_text('of the user')
    small_training(killed, 4, StaleCheckpointsHook(), resume=killed / 'iter_3.pth', **KEEP)
    assert names(killed) == ['iter_1.pth', 'iter_2_backup.pth', 'iter_30.pth', 'iter_4.pth', 'mine.pth']


def test_it_stays_until_that_save(killed):
    small_training(killed, 3, StaleCheckpointsHook(), resume=killed / 'iter_3.pth', **KEEP)  # nothing left to do
    assert names(killed) == ['iter_2.pth', 'iter_3.pth']


def test_it_stays_where_all_checkpoints_are_kept(killed):
    small_training(killed, 4, StaleCheckpointsHook(), resume=killed / 'iter_3.pth')
    assert names(killed) == ['iter_2.pth', 'iter_3.pth', 'iter_4.pth']


def test_a_checkpoint_from_elsewhere_removes_nothing_here(killed, tmp_path):
    other = tmp_path / 'other'
    other.mkdir()
    (other / 'iter_2.pth').write_text('of the user')
    small_training(other, 4, StaleCheckpointsHook(), resume=killed / 'iter_3.pth', **KEEP)
    assert names(other) == ['iter_2.pth', 'iter_4.pth'] and names(killed) == ['iter_2.pth', 'iter_3.pth']


@pytest.mark.parametrize('named', ['iter_2.pth', ['../iter_2.pth', '/iter_2.pth', 7, 'mine.pth', 'iter_3.pth'], None])
def test_a_crafted_list_removes_nothing_else(named, killed):
    (killed.parent / 'iter_2.pth').write_text('of the user')
    (killed / 'mine.pth').write_text('of the user')
    content = torch.load(killed / 'iter_3.pth', weights_only=False)
    content['meta'][KEY] = named
    torch.save(content, killed / 'iter_3.pth')
    small_training(killed, 4, StaleCheckpointsHook(), resume=killed / 'iter_3.pth', **KEEP)
    assert names(killed) == ['iter_2.pth', 'iter_4.pth', 'mine.pth'] and names(killed.parent) == ['iter_2.pth']
