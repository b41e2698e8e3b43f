"""How a value of a data file appears in an error message."""

import reprlib
from collections.abc import Sequence

MOST = 20  # names of one list


class _Short(reprlib.Repr):
    """Python's notation, bounded in length and depth: the values come from files of others."""

    def __init__(self):
        super().__init__()
        self.maxlevel, self.maxlist, self.maxtuple, self.maxdict = 2, 6, 6, 4
        self.maxstring = self.maxother = 80

    def repr_int(self, value: int, level: int) -> str:
        return repr(value) if value.bit_length() < 256 else 'an integer of more than 256 bits'


def quoted(value: object) -> str:
    """The value as Python writes it, shortened."""
    return _Short().repr(value)


def listed(names: Sequence[object]) -> str:
    """The names, separated by commas; of a long list the first ones and the number of the others."""
    others = f' and {len(names) - MOST} more' if len(names) > MOST else ''
    return ', '.join(name[:80] if isinstance(name, str) else quoted(name) for name in names[:MOST]) + others
