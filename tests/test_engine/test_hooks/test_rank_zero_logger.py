"""Tests that only one rank writes the metrics of a test."""

import json
import logging
from types import SimpleNamespace

import pytest

from mmvmamba.engine.hooks.rank_zero_logger import RankZeroLoggerHook


@pytest.mark.parametrize('is_main', [True, False])
def test_only_the_main_process_writes_the_metrics(is_main, tmp_path, monkeypatch):
    """Ranks measure different times. Two texts of different length in one file would be invalid JSON."""
    monkeypatch.setattr('mmvmamba.engine.hooks.rank_zero_logger.is_main_process', lambda: is_main)
    hook = RankZeroLoggerHook()
    hook.json_log_path = 'metrics.json'
    processor = SimpleNamespace(get_log_after_epoch=lambda *_, **__: (dict(mIoU=0.5, time=0.25), ''))
    runner = SimpleNamespace(
        log_processor=processor, log_dir=str(tmp_path), logger=logging.getLogger(__name__), test_dataloader=[]
    )
    hook.after_test_epoch(runner)
    written = [json.loads(path.read_text()) for path in tmp_path.iterdir()]
    assert written == ([dict(mIoU=0.5, time=0.25)] if is_main else [])
