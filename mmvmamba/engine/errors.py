from collections.abc import Iterable, Iterator

from ..checkpoint.errors import OneLineError


class LaunchError(OneLineError):
    """A problem that the user has to solve before a run can start. The message is one sentence."""


class TrainingError(OneLineError):
    """A training cannot continue. The message is one sentence."""


class DataError(RuntimeError):
    """A data file cannot be used. The message is one sentence that names the file.

    The message has no line breaks or control characters and at most `LONGEST` characters, whatever the file contains.

    Args:
        message: the sentence.
        others: sentences for further problems in the same file. Only check_dataset.py reads them.
    """

    LONGEST = 2000

    def __init__(self, message: str, others: Iterable[str] = ()):
        self.others = others
        # a DataLoader prepends the traceback of its worker
        message = message.rpartition(f'\n{__name__}.{type(self).__name__}: ')[2].strip()
        line = ''.join(c if c.isprintable() else ascii(c)[1:-1] for c in message)
        if len(line) > self.LONGEST:
            line = f'{line[: self.LONGEST - 600]} ... {line[-590:]}'
        super().__init__(line)


def raise_first(faults: Iterator[str]) -> None:
    """Raises a `DataError` for the first fault, if there is one."""
    for fault in faults:
        raise DataError(fault, faults)
