"""Hides messages of mmdet and mmseg that look like errors, but do not affect the run."""

import logging
import warnings

import mmengine.logging

_print_log = mmengine.logging.print_log


def hide_library_messages() -> None:
    """Hides three messages. Call it before the libraries are imported.

    mmdet announces missing OneDL datasets as a debug message, but `print_log` without a logger prints every level. It
    warns that `faster_coco_eval` is not installed, which only `FasterCocoMetric` needs. mmseg warns that its
    visualization hook does not draw, which is the default and how all its configs use the hook.
    """
    setattr(mmengine.logging, 'print_log', _without_debug_messages)  # noqa: B010, type checkers reject an assignment
    warnings.filterwarnings('ignore', 'faster_coco_eval is not installed', UserWarning)
    warnings.filterwarnings('ignore', 'The draw is False, it means that', UserWarning)


def _without_debug_messages(msg, logger=None, level=logging.INFO) -> None:
    if logger is not None or level > logging.DEBUG:
        _print_log(msg, logger, level)
