"""A setting of the process that a `with` block can override for its own thread and context."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Generic, TypeVar

T = TypeVar('T')


class Setting(Generic[T]):
    """A value of the process. An override applies only to the thread and context (`contextvars`) of its block.

    Attributes:
        of_process: the value outside of overrides.
    """

    def __init__(self, name: str, value: T):
        self.of_process = value
        self._override = ContextVar(name)

    def get(self) -> T:
        return self._override.get(self.of_process)

    @contextmanager
    def override(self, value: T) -> Iterator[None]:
        token = self._override.set(value)
        try:
            yield
        finally:
            self._override.reset(token)
