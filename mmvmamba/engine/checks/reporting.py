"""Warnings about data: settings that are unusual, but may be intended."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

from mmengine.logging import print_log


@cache  # a file is read several times, for datasets and metrics
def _log_once(sentence: str) -> None:
    print_log(sentence, logger='current', level=logging.WARNING)


_report: Callable[[str], None] = _log_once


def warn(sentence: str) -> None:
    """Logs a sentence, or passes it to the function of `warnings_to`."""
    _report(sentence)


@contextmanager
def warnings_to(report: Callable[[str], None]) -> Iterator[None]:
    """Context manager that passes warnings to a function instead of logging them, for the whole process."""
    global _report
    before, _report = _report, report
    try:
        yield
    finally:
        _report = before
