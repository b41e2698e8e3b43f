"""Checkpoints that are there whole or not at all, and the newest of them."""

import logging
import os
import re
from contextlib import suppress
from pathlib import Path

from mmengine.fileio import LocalBackend, register_backend
from mmengine.logging import print_log

from ..checkpoint.archive import check_archive, is_zip
from .errors import LaunchError


class WholeFileBackend(LocalBackend):
    """Writes beside a file and renames when all is on disk; removes a checkpoint when the next one is whole.

    mmengine writes into the file itself, and removes the old checkpoint before: killed in between, a run with
    `max_keep_ckpts=1` has none left.
    """

    outdated: list[Path] = []  # of the process, as mmengine makes a backend for every call

    def put(self, obj: bytes, filepath: str | Path) -> None:
        path = Path(filepath)
        _write(obj, path, path.with_name(f'{path.name}.part'))
        while path.suffix == '.pth' and self.outdated:
            old = self.outdated.pop()
            if old != path and old.exists():
                super().remove(old)

    def put_text(self, obj: str, filepath: str | Path, encoding: str = 'utf-8') -> None:
        path = Path(filepath)  # all ranks write the metrics of a test to the same file
        _write(obj.encode(encoding), path, path.with_name(f'{path.name}.{os.getpid()}.part'))

    def remove(self, filepath: str | Path) -> None:
        if Path(filepath).suffix == '.pth':
            self.outdated.append(Path(filepath))
        else:
            super().remove(filepath)


def _write(content: bytes, path: Path, part: Path) -> None:
    """Writes to the file `part`, which replaces `path` when it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with part.open('wb') as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)  # it is incomplete, and the space is needed
        error.filename = error.filename or str(path)  # a failed write does not name the file
        raise


def write_whole_files() -> None:
    """Makes mmengine write and remove local files through `WholeFileBackend`."""
    register_backend('local', WholeFileBackend, force=True, prefixes='')


def newest_whole_checkpoint(folder: Path) -> Path | None:
    """The checkpoint with the highest number in a folder that is not damaged; None if there is no checkpoint.

    `last_checkpoint`, which mmengine believes, names a path of the day when it was written: it may be gone, empty, or
    of a folder that has moved.

    Raises:
        LaunchError: there are checkpoints, and none is whole.
    """
    numbered = [(int(number[1]), path) for path in folder.glob('*.pth') if (number := _NAME.fullmatch(path.name))]
    candidates = [path for _, path in sorted(numbered, reverse=True)]
    for path in candidates:
        if reason := _damage(path):
            message = f'{path} is damaged ({reason}): the checkpoint before it is used.'
            print_log(message, logger='current', level=logging.WARNING)
        else:
            return path
    if candidates:
        raise LaunchError(f'none of the {len(candidates)} checkpoints in {folder} is whole: give one to --resume')
    return None


def last_named(folder: Path) -> Path | None:
    """The file that `last_checkpoint` in this folder names, if there is one: of a run that kept its files elsewhere."""
    try:
        path = Path((folder / 'last_checkpoint').read_text(errors='replace').strip())
        return path if path.is_file() else None
    except (OSError, ValueError):
        return None


_NAME = re.compile(r'(?:iter|epoch)_(\d+)\.pth')


def _damage(path: Path) -> str | None:
    try:
        with path.open('rb') as file:
            if not is_zip(file):
                return 'empty' if path.stat().st_size == 0 else 'it begins like no checkpoint'
            check_archive(file)
    except Exception as error:  # a damaged file fails in any way
        return str(error).splitlines()[0][:100] if str(error) else type(error).__name__
    return None
