"""A disk that fills up during a save: one sentence, and the previous checkpoint."""

import resource
import subprocess
from contextlib import suppress

import pytest
from mmengine.hooks import Hook

from mmvmamba.engine.errors import TrainingError
from mmvmamba.engine.full_disk import reporting_full_disk
from mmvmamba.engine.newest_checkpoint import newest_complete_checkpoint

from .small_training import small_training


class FullAfter(Hook):
    """Calls a function that leaves no room, after some iterations."""

    priority = 'VERY_HIGH'  # before the checkpoint of that iteration

    def __init__(self, iterations, fill):
        self.iterations, self.fill = iterations, fill

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter + 1 == self.iterations:
            self.fill()


def train_until_full(folder, iterations, fill):
    with reporting_full_disk(folder):
        small_training(folder, 4, FullAfter(iterations, fill))


@pytest.fixture
def file_size_limit():
    """Sets the largest file that this process may write, until the test ends."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_checkpoint_beyond_the_limit_keeps_the_one_before(tmp_path, file_size_limit, capfd):
    with pytest.raises(TrainingError) as refusal:
        train_until_full(tmp_path, 3, lambda: file_size_limit(3000))
    file_size_limit(resource.RLIM_INFINITY)
    assert str(refusal.value).startswith(f'{tmp_path}/iter_3.pth cannot be written (File too large; ')
    assert str(refusal.value).endswith(f'free space, then continue from {tmp_path}/iter_2.pth with --resume')
    assert sorted(path.name for path in tmp_path.glob('*.pth*')) == ['iter_1.pth', 'iter_2.pth']
    assert 'Logging error' not in ''.join(capfd.readouterr())  # the log does not fit either
    assert small_training(tmp_path, 4, resume=newest_complete_checkpoint(tmp_path)).iter == 4


def test_a_first_checkpoint_that_does_not_fit(tmp_path, file_size_limit):
    with pytest.raises(TrainingError, match='free space, then start again, since no checkpoint has been saved yet'):
        train_until_full(tmp_path, 1, lambda: file_size_limit(3000))
    assert not list(tmp_path.glob('*.pth*'))


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / 'disk'
    folder.mkdir()
    mounted = subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=2m', 'tmpfs', folder], capture_output=True)
    if mounted.returncode:
        pytest.skip('mounting a tmpfs is not permitted here')
    yield folder
    subprocess.run(['umount', '--lazy', folder], check=True)


def test_a_disk_that_fills_up_keeps_the_checkpoint_before(small_disk):
    def fill():
        with suppress(OSError), (small_disk / 'other').open('wb', buffering=0) as file:
            while True:
                file.write(bytes(1000))

    folder = small_disk / 'run'
    with pytest.raises(TrainingError, match=r'cannot be written \(No space left on device; 0\.0 MiB free\)'):
        train_until_full(folder, 3, fill)
    assert sorted(path.name for path in folder.glob('*.pth*')) == ['iter_1.pth', 'iter_2.pth']
    (small_disk / 'other').unlink()
    assert small_training(folder, 4, resume=newest_complete_checkpoint(folder)).iter == 4


def test_other_errors_pass(tmp_path):
    with pytest.raises(FileNotFoundError), reporting_full_disk(tmp_path):
        (tmp_path / 'none').read_text()
