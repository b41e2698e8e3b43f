from ..checkpoint.errors import OneLineError


class LaunchError(OneLineError):
    """Something that the user can put right before a run can start; the message is one sentence."""


class TrainingError(OneLineError):
    """A training that has to end; the message is one sentence."""


class DataError(RuntimeError):
    """A file of the data that cannot be used; the message is one sentence, which names it.

    The message is one line without control characters, of at most `LONGEST` characters, whatever a file puts into it.
    """

    LONGEST = 2000

    def __init__(self, message: str):
        # a DataLoader puts the traceback of its worker in front
        message = message.rpartition(f'\n{__name__}.{type(self).__name__}: ')[2].strip()
        line = ''.join(c if c.isprintable() else ascii(c)[1:-1] for c in message)
        if len(line) > self.LONGEST:
            line = f'{line[: self.LONGEST - 600]} ... {line[-590:]}'
        super().__init__(line)
