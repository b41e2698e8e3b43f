"""Imports of mmdet without messages about optional packages that the config does not need."""

import logging
import warnings

import mmengine.logging

_print_log = mmengine.logging.print_log


def hide_import_messages() -> None:
    """Hides two messages that mmdet prints when it is imported. Call it before the import.

    mmdet announces missing OneDL datasets as a debug message, but `print_log` without a logger prints every level. And
    it warns that `faster_coco_eval` is not installed, which only `FasterCocoMetric` needs.
    """
    setattr(mmengine.logging, 'print_log', _without_debug_messages)  # noqa: B010, type checkers reject an assignment
    warnings.filterwarnings('ignore', 'faster_coco_eval is not installed', UserWarning)


def _without_debug_messages(msg, logger=None, level=logging.INFO) -> None:
    if logger is not None or level > logging.DEBUG:
        _print_log(msg, logger, level)
