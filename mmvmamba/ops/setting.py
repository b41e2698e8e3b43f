"""A setting of the process that a `with` block changes for its own thread and context alone."""

from contextvars import ContextVar
from typing import Any


class Setting:
    """A subclass is one setting: `s(value)` sets it for the process, `with s(value):` for the block.

    What a block sets holds in its own thread and context (`contextvars`: an asyncio task, for instance), however often
    other threads set something else meanwhile.
    """

    def __init_subclass__(cls, default: Any):
        cls._default = default
        cls._calls = []  # plain calls, of which the last one counts; a block takes its own out again
        cls._in_context = ContextVar(cls.__name__)

    def __init__(self, value: Any):
        self._value = value
        self._calls.append(self)

    def __enter__(self) -> None:
        if self in self._calls:
            self._calls.remove(self)
        self._token = self._in_context.set(self._value)

    def __exit__(self, *_) -> None:
        self._in_context.reset(self._token)

    @classmethod
    def get(cls) -> Any:
        calls = cls._calls[-1:]
        return cls._in_context.get(calls[0]._value if calls else cls._default)
