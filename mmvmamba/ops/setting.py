"""A setting of the process that a `with` block changes for its own thread and context alone."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any


class Setting:
    """A subclass is one setting: `s(value)` sets it for the process, `with s(value):` for the block.

    What a block sets holds in its own thread and context (`contextvars`: an asyncio task, for instance), however often
    other threads set something else meanwhile. Python makes the object before it enters the block, and until then it is
    a plain call, which other threads may see for that moment; `s.within(value)` is for blocks alone.
    """

    def __init_subclass__(cls, default: Any):
        cls._default = default
        cls._calls = []  # plain calls, of which the last one counts; a block takes its own out again
        cls._in_context = ContextVar(cls.__name__)

    def __init__(self, value: Any):
        self._value = value
        self._tokens = []  # of the blocks that it is in, the innermost last
        self._calls.append(self)

    def __enter__(self) -> None:
        if self in self._calls:
            self._calls.remove(self)
        self._tokens.append(self._in_context.set(self._value))

    def __exit__(self, *_) -> None:
        self._in_context.reset(self._tokens.pop())

    @classmethod
    @contextmanager
    def within(cls, value: Any) -> Iterator[None]:
        """Sets it for the block, unchecked."""
        token = cls._in_context.set(value)
        try:
            yield
        finally:
            cls._in_context.reset(token)

    @classmethod
    def get(cls) -> Any:
        calls = cls._calls[-1:]
        return cls._in_context.get(calls[0]._value if calls else cls._default)
