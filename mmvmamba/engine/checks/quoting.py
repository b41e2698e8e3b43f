"""Formats values of data files for error messages."""

import reprlib
from collections.abc import Sequence

MOST = 20  # names shown of a list


class _Short(reprlib.Repr):
    """A repr of limited length and depth, since the values can be arbitrarily large."""

    def __init__(self):
        super().__init__()
        self.maxlevel, self.maxlist, self.maxtuple, self.maxdict = 2, 6, 6, 4
        self.maxstring = self.maxother = 80

    def repr_int(self, value: int, level: int) -> str:
        return repr(value) if value.bit_length() < 256 else 'an integer of more than 256 bits'


def quoted(value: object) -> str:
    """Returns a shortened repr."""
    return _Short().repr(value)


def listed(names: Sequence[object]) -> str:
    """Joins names with commas. If there are more than `MOST`, the end gives the number of the others."""
    others = f' and {len(names) - MOST} more' if len(names) > MOST else ''
    return ', '.join(name[:80] if isinstance(name, str) else quoted(name) for name in names[:MOST]) + others
