"""The path of the file that mmengine read last in this thread, for code that only gets the content."""

import threading
from pathlib import Path

_state = threading.local()


def set_last_read(path: str | Path) -> None:
    _state.path = path


def last_read() -> str | Path:
    return getattr(_state, 'path', 'an annotation file')
