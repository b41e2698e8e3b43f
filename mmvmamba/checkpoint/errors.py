"""How checkpoints fail: always with one sentence for the user."""

from collections.abc import Iterable


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be read, is refused, or does not fit; the message is one sentence for the user."""


class DamagedFile(CheckpointError):
    """The file itself is at fault: another copy of it may be whole."""


class Refused(Exception):
    """The file holds more than data; the message names what is not allowed."""


def listing(names: Iterable, most: int | None = 10) -> str:
    """The first names, and how many more there are."""
    names = [name if isinstance(name, str) else f'({type(name).__name__})' for name in names]
    more = f' and {len(names) - most} more' if most and len(names) > most else ''
    return ', '.join(names[:most]) + more
