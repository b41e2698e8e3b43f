"""Folders are checked before a run starts, and locked while it runs."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from mmengine.config import Config

from mmvmamba.engine import work_dir
from mmvmamba.engine.errors import LaunchError
from mmvmamba.engine.runner import checkpoint_folder
from mmvmamba.engine.work_dir import LOCK, check_space, claim_folders, make_folder

fcntl = pytest.importorskip('fcntl')


def test_a_folder_is_created_with_its_parents_and_left_empty(tmp_path):
    make_folder(tmp_path / 'a' / 'b')
    assert not list((tmp_path / 'a' / 'b').iterdir())


@pytest.mark.parametrize(
    'name, reason',
    [
        ('file', 'it is not a folder'),
        ('file/inside', 'Not a directory'),
        ('nul\0', 'null byte'),
        ('a' * 300, 'File name too long'),
        ('link', 'it is not a folder'),
    ],
)
def test_a_folder_that_cannot_be_written_to_is_rejected(name, reason, tmp_path):
    (tmp_path / 'file').write_text('precious')
    (tmp_path / 'link').symlink_to(tmp_path / 'nowhere')
    with pytest.raises(LaunchError, match=rf'cannot be written to \(.*{reason}.*\): choose another --work-dir$'):
        make_folder(tmp_path / name)
    assert (tmp_path / 'file').read_text() == 'precious'


def test_a_read_only_folder_is_rejected(tmp_path, monkeypatch):
    def refuse(**_):
        raise PermissionError(errno.EACCES, 'Permission denied')

    monkeypatch.setattr('tempfile.NamedTemporaryFile', refuse)  # root may write anywhere
    with pytest.raises(LaunchError, match=r'cannot be written to \(Permission denied\): choose another --out'):
        make_folder(tmp_path, '--out')


def test_a_disk_without_room_for_two_checkpoints_is_rejected(tmp_path):
    check_space(tmp_path, 0)
    with pytest.raises(LaunchError, match='MiB of free space, but two checkpoints of this model need'):
        check_space(tmp_path, 2**60)


@pytest.mark.parametrize(
    'out_dir, folder',
    [(None, 'runs/one'), ('checkpoints', 'checkpoints/one'), (Path('/out'), '/out/one'), ('s3://out', 'runs/one')],
)
def test_the_folder_of_checkpoints_is_on_this_machine(out_dir, folder):
    cfg = Config(dict(work_dir='runs/one', default_hooks=dict(checkpoint=dict(out_dir=out_dir))))
    assert checkpoint_folder(cfg) == Path(folder)


HOLD = """
import os, signal, sys, time
from pathlib import Path
from mmvmamba.engine.work_dir import claim_folders
with claim_folders(Path(sys.argv[1])):
    child = os.fork()
    if child == 0:  # like a worker of a data loader
        time.sleep(60)
        os._exit(0)
    print(child, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def other_training(tmp_path):
    """Another process that has locked the folder and has a forked child; both run until the test ends."""
    process = subprocess.Popen([sys.executable, '-c', HOLD, tmp_path], stdout=subprocess.PIPE, text=True)
    child = int(process.stdout.readline())
    yield process
    process.kill()
    process.wait()
    os.kill(child, signal.SIGKILL)


def test_a_second_training_is_rejected_until_the_first_is_killed(other_training, tmp_path):
    for _ in range(2):  # a rejection leaves the lock as it is
        with pytest.raises(LaunchError, match=rf'another training \(process {other_training.pid} on .*\) writes to'):
            with claim_folders(tmp_path):
                pass
    other_training.kill()
    other_training.wait()
    with claim_folders(tmp_path):  # although its child still runs
        assert (tmp_path / LOCK).read_text().startswith(f'process {os.getpid()} on ')


def test_a_folder_of_checkpoints_is_locked_too(tmp_path):
    with claim_folders(tmp_path / 'a', tmp_path / 'out'):
        with pytest.raises(LaunchError, match=f'another training .* writes to {tmp_path}/out'):
            with claim_folders(tmp_path / 'b', tmp_path / 'out'):
                pass
        with claim_folders(tmp_path / 'b'):  # the failed attempt has released what it had locked
            pass


def test_one_folder_under_two_names_is_locked_once(tmp_path):
    (tmp_path / 'link').symlink_to(tmp_path)
    with claim_folders(tmp_path, tmp_path / 'link', tmp_path / '.' / Path()):
        pass


def test_the_lock_is_released_at_the_end_and_after_an_error(tmp_path):
    with pytest.raises(KeyError), claim_folders(tmp_path):
        raise KeyError
    with claim_folders(tmp_path):
        pass


def test_a_file_system_without_locks_is_reported(tmp_path, monkeypatch, caplog):
    def refuse(*_):
        raise OSError(errno.ENOLCK, 'No locks available')

    warnings = []
    monkeypatch.setattr(fcntl, 'flock', refuse)
    monkeypatch.setattr(work_dir, 'print_log', lambda text, **_: warnings.append(text))
    with claim_folders(tmp_path):
        pass
    assert len(warnings) == 1 and 'cannot be locked (No locks available)' in warnings[0]
