"""The folders that a run writes to: created, checked and locked before the model is built."""

import logging
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

from mmengine.logging import print_log

from .distributed import on_main_process
from .errors import LaunchError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

LOCK = '.lock'  # name of the lock file in each folder


def make_folder(folder: Path, option: str = '--work-dir') -> None:
    """Creates a folder and writes a temporary file to it.

    Args:
        folder: to create, with its parents.
        option: that chooses the folder, for the error.

    Raises:
        LaunchError: the path is a file, or the folder cannot be created or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix='.writable'):
            pass
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        is_file = isinstance(error, FileExistsError) and not folder.is_dir()
        reason = 'it is not a folder' if is_file else getattr(error, 'strerror', None) or str(error)
        raise LaunchError(f'{folder} cannot be written to ({reason}): choose another {option}') from error


def check_space(folder: Path, size: int) -> None:
    """Checks that two checkpoints fit: the old one is removed only after the new one is complete.

    Args:
        folder: existing folder of the checkpoints.
        size: of one checkpoint in bytes, approximately.

    Raises:
        LaunchError: the disk is too full.
    """
    free = shutil.disk_usage(folder).free
    if free < 2 * size:
        raise LaunchError(
            f'{folder} has {free / 2**20:.0f} MiB of free space, but two checkpoints of this model need '
            f'{2 * size / 2**20:.0f}: free space or choose another --work-dir'
        )


@contextmanager
def claim_folders(*folders: Path) -> Iterator[None]:
    """Creates the folders and locks them against a second training, until the block or the process ends.

    With several ranks, the first one holds the locks. The kernel releases them when the process ends, also when it is
    killed. A file system without `flock` is reported in the log and not locked.

    Raises:
        LaunchError: on every rank; a folder cannot be written to, or another training has locked it.
    """
    for folder in folders:
        make_folder(folder)  # on every rank: machines may have disks of their own
    with ExitStack() as locks:

        def claim() -> None:
            for folder in {folder.resolve(): folder for folder in folders}.values():
                locks.callback(_release, _lock(folder))

        on_main_process(claim)
        yield


_held: set[IO] = set()  # open lock files of this process


def _lock(folder: Path) -> IO | None:
    if fcntl is None:
        return None
    file = (folder / LOCK).open('a+')
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        owner = file.read(200).strip() or 'of another process'
        file.close()
        raise LaunchError(
            f'another training ({owner}) writes to {folder}: wait until it ends or choose another --work-dir'
        ) from None
    except OSError as error:
        file.close()
        print_log(
            f'{folder} cannot be locked ({error.strerror}): do not start a second training in it.',
            logger='current',
            level=logging.WARNING,
        )
        return None
    _held.add(file)
    with suppress(OSError):  # a full disk: the lock holds without the note
        file.truncate(0)
        file.write(f'process {os.getpid()} on {socket.gethostname()}\n')
        file.flush()
    return file


def _release(file: IO | None) -> None:
    if file is not None:
        _held.discard(file)
        with suppress(OSError):
            file.close()


def _close_in_child() -> None:
    """A forked data loader that outlives a killed training must not keep its lock."""
    for file in _held:
        file.close()
    _held.clear()


if fcntl is not None:
    os.register_at_fork(after_in_child=_close_in_child)
