from ..checkpoint.errors import OneLineError


class LaunchError(OneLineError):
    """Something that the user can put right before a run can start; the message is one sentence."""


class TrainingError(OneLineError):
    """A training that has to end; the message is one sentence."""


class DataError(RuntimeError):
    """A file of the data that cannot be used; the message is one sentence, which names it."""

    def __str__(self) -> str:
        """Also where a DataLoader has put the traceback of a worker in front of it."""
        return super().__str__().rpartition(f'{type(self).__name__}: ')[2].strip()
