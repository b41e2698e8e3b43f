"""LoggerHook whose test metrics are written by one process."""

from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import LoggerHook
from mmengine.registry import HOOKS
from mmengine.runner import Runner


@HOOKS.register_module()
class RankZeroLoggerHook(LoggerHook):
    """Writes the metrics of a test once.

    `LoggerHook` writes them on every rank to the same file, which is then sometimes invalid JSON: the ranks measure
    different times, so their texts differ in length. The arguments are those of `LoggerHook`.
    """

    def after_test_epoch(self, runner: Runner, metrics: dict[str, Any] | None = None) -> None:
        if is_main_process():
            super().after_test_epoch(runner, metrics)
