"""Reports a full disk in one sentence."""

import errno
import logging
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import LaunchError, TrainingError
from .newest_checkpoint import newest_complete_checkpoint

# errors that only writing can cause
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}


@contextmanager
def reporting_full_disk(folder: Path) -> Iterator[None]:
    """Turns a failed write inside the block into a `TrainingError` that explains how to continue.

    Args:
        folder: of the checkpoints of this run.

    Raises:
        TrainingError: with the file, the reason, the free space and the checkpoint to resume from.
    """
    handle_error = logging.Handler.handleError

    def skip_full_disk(self: logging.Handler, record: logging.LogRecord) -> None:
        if not _is_full(sys.exc_info()[1]):
            handle_error(self, record)

    logging.Handler.handleError = skip_full_disk  # avoids a traceback for each line of the log
    try:
        yield
    except OSError as error:
        if not _is_full(error):
            raise
        free = shutil.disk_usage(folder).free / 2**20
        raise TrainingError(
            f'{error.filename or folder} cannot be written ({error.strerror}; {free:.1f} MiB free): '
            f'free space, then {_next_step(folder)}'
        ) from error
    finally:
        logging.Handler.handleError = handle_error


def _is_full(error: BaseException | None) -> bool:
    return isinstance(error, OSError) and error.errno in FULL


def _next_step(folder: Path) -> str:
    try:
        newest = newest_complete_checkpoint(folder)
    except LaunchError:
        newest = None
    return f'continue from {newest} with --resume' if newest else 'start again, since no checkpoint has been saved yet'
