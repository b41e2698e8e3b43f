"""Finds the checkpoint from which `--resume` continues."""

import logging
import re
from pathlib import Path

from mmengine.logging import print_log

from ..checkpoint.archive import check_archive, is_zip
from .errors import LaunchError


def newest_complete_checkpoint(folder: Path) -> Path | None:
    """Returns the undamaged checkpoint with the highest number in a folder, or None if there is no checkpoint.

    `last_checkpoint`, which mmengine reads, contains the path at the time of writing: the file may be gone or empty, or
    the folder may have been moved.

    Raises:
        LaunchError: all checkpoints are damaged.
    """
    numbered = [(int(number[1]), path) for path in folder.glob('*.pth') if (number := _NAME.fullmatch(path.name))]
    candidates = [path for _, path in sorted(numbered, reverse=True)]
    for path in candidates:
        if reason := _damage(path):
            message = f'{path} is damaged ({reason}): the previous checkpoint is used.'
            print_log(message, logger='current', level=logging.WARNING)
        else:
            return path
    if candidates:
        raise LaunchError(
            f'all {len(candidates)} checkpoints in {folder} are damaged: pass a complete one with --resume FILE'
        )
    return None


def path_in_last_checkpoint_file(folder: Path) -> Path | None:
    """Returns the existing file that `last_checkpoint` names: the run may have kept its checkpoints elsewhere."""
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
                return 'empty' if path.stat().st_size == 0 else 'not a checkpoint'
            check_archive(file)
    except Exception as error:  # a damaged file can cause any error
        return str(error).splitlines()[0][:100] if str(error) else type(error).__name__
    return None
