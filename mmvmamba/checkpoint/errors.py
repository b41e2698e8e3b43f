"""Errors about checkpoints. Each message is one printable line, whatever the file contains."""

from collections.abc import Iterable

LONGEST_MESSAGE = 2000  # characters
LONGEST_NAME = 200


def one_line(text: str, longest: int = LONGEST_MESSAGE) -> str:
    """Escapes line breaks, control and other invisible characters, and cuts the middle out of a long text."""
    text = _shorten(text, longest)
    if not text.isprintable():
        text = ''.join(c if c.isprintable() else c.encode('unicode_escape').decode() for c in text)
    return _shorten(text, longest)


def _shorten(text: str, longest: int) -> str:
    tail = longest // 3  # the end of a message tells how to fix the problem
    return text if len(text) <= longest else f'{text[: longest - tail - 3]}...{text[-tail:]}'


class OneLineError(RuntimeError):
    """Base of all errors whose message quotes the content of files: it prints as one line of bounded length."""

    def __str__(self) -> str:
        return one_line(super().__str__())


class CheckpointError(OneLineError):
    """A checkpoint cannot be read, is unsafe, or does not fit; the message is one sentence for the user."""


class DamagedFile(CheckpointError):
    """The file is damaged or not a checkpoint; another copy of it may be intact."""


class DamagedContent(ValueError):
    """The bytes of a file are not a valid checkpoint; the message states why, without the name of the file."""


def reason_of(error: Exception, longest: int = 160) -> str:
    """Returns the type and the message of an error in one line, to be quoted in another message."""
    return one_line(f'{type(error).__name__}: {error}' if str(error) else type(error).__name__, longest)


class UnsafeCheckpoint(Exception):
    """The file contains more than data, or exceeds a limit; the message names what is not allowed."""


def listing(names: Iterable, most: int | None = 10) -> str:
    """The first names, shortened and escaped, and the number of the others."""
    names = [one_line(name, LONGEST_NAME) if isinstance(name, str) else f'({type(name).__name__})' for name in names]
    more = f' and {len(names) - most} more' if most and len(names) > most else ''
    return ', '.join(names[:most]) + more
