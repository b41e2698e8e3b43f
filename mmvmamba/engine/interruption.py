"""Ctrl-C: a tool ends with one sentence and exit status 130 instead of a traceback."""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, current_thread, main_thread
from typing import NoReturn

from mmengine.dist import is_main_process

EXIT_STATUS = 130  # 128 + SIGINT, as shells report it

_received = Event()


class Interrupted(Exception):
    """Ctrl-C was pressed. The message is one sentence on what was stopped."""


@contextmanager
def one_interrupt() -> Iterator[None]:
    """Ignores further SIGINTs after the first one, which raises KeyboardInterrupt.

    A rank receives the signal twice, from the terminal and from torchrun. The second one must not stop the cleanup.
    """
    if current_thread() is not main_thread():
        yield
        return
    _received.clear()
    previous = signal.signal(signal.SIGINT, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


def _interrupt(number: int, frame: object) -> NoReturn:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _received.set()
    raise KeyboardInterrupt


def is_interrupt(error: BaseException) -> bool:
    """Whether an error is the consequence of Ctrl-C.

    MMEngine formats the config for each checkpoint, and turns every exception meanwhile into a SyntaxError.
    """
    return isinstance(error, KeyboardInterrupt) or _received.is_set()


@contextmanager
def describing_interrupt(describe: Callable[[], str]) -> Iterator[None]:
    """Raises `Interrupted` with the sentence from `describe` if Ctrl-C is pressed inside the block."""
    try:
        yield
    except (KeyboardInterrupt, Exception) as error:
        if is_interrupt(error):
            raise Interrupted(describe()) from error
        raise


def exit_after_interrupt(sentence: str) -> NoReturn:
    """Prints the sentence on the first rank, and ends the process."""
    if is_main_process():
        print(f'\n{Path(sys.argv[0]).name}: {sentence}', file=sys.stderr)
    sys.exit(EXIT_STATUS)
