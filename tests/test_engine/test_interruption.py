import re
import runpy
import signal
import sys
import threading
from argparse import Namespace
from pathlib import Path

import pytest
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from mmvmamba.engine.tool_session import tool_session

from .small_training import small_config

TRAIN = runpy.run_path(str(Path(__file__).parents[2] / 'tools/train.py'))['main']


@HOOKS.register_module()
class CtrlCHook(Hook):
    def __init__(self, iteration):
        self.iteration = iteration

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == self.iteration:
            signal.raise_signal(signal.SIGINT)


def train(work_dir, *options, stop=5, interval=2):
    """Runs tools/train.py, stopped by Ctrl-C; returns the exit status."""
    cfg = small_config(work_dir, 10, **{'default_hooks.checkpoint.interval': interval})
    cfg.custom_hooks = [dict(type='CtrlCHook', iteration=stop)]
    config = work_dir.parent / 'config.py'
    cfg.dump(config)
    with pytest.raises(SystemExit) as end:
        TRAIN([str(config), '--work-dir', str(work_dir), *options])
    return end.value.code


@pytest.fixture(autouse=True)
def tool_name(monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['tools/train.py'])


def test_ctrl_c_in_a_training_names_the_iteration_and_the_checkpoint(tmp_path, capsys):
    assert train(tmp_path / 'run') == 130
    checkpoint = tmp_path / 'run/iter_4.pth'
    expected = f'\ntrain.py: stopped at iteration 5. To continue from {checkpoint}, pass --resume.\n'
    assert capsys.readouterr().err == expected


def test_resuming_continues_from_the_named_checkpoint(tmp_path, capsys):
    train(tmp_path / 'run')
    [named] = re.findall(r'from (\S+), pass --resume', capsys.readouterr().err)
    train(tmp_path / 'run', '--resume', '--cfg-options', 'experiment_name=resumed', stop=7)
    output = capsys.readouterr()
    assert f'Load checkpoint from {named}' in output.out
    assert 'stopped at iteration 7. To continue from' in output.err


def test_without_a_checkpoint_nothing_is_named(tmp_path, capsys):
    assert train(tmp_path / 'run', stop=1) == 130
    expected = '\ntrain.py: stopped at iteration 1. No checkpoint has been written yet.\n'
    assert capsys.readouterr().err == expected


def test_ctrl_c_in_any_tool_prints_one_line(capsys):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(SystemExit) as end, tool_session(Namespace()):
        signal.raise_signal(signal.SIGINT)
    assert end.value.code == 130
    assert capsys.readouterr().err == '\ntrain.py: stopped.\n'
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_that_a_library_turns_into_another_error_prints_one_line(capsys):
    """MMEngine does that while it formats the config for a checkpoint."""

    def format_config():
        try:
            signal.raise_signal(signal.SIGINT)
        except BaseException as error:
            raise SyntaxError('Failed to format the config file') from error

    with pytest.raises(SystemExit) as end, tool_session(Namespace()):
        format_config()
    assert end.value.code == 130
    assert capsys.readouterr().err == '\ntrain.py: stopped.\n'
    with pytest.raises(SyntaxError), tool_session(Namespace()):
        raise SyntaxError('without Ctrl-C, the error is shown')


def test_a_second_ctrl_c_does_not_stop_the_cleanup():
    cleaned = []

    def run():
        with tool_session(Namespace()):
            try:
                signal.raise_signal(signal.SIGINT)
            finally:
                signal.raise_signal(signal.SIGINT)
                cleaned.append(True)

    with pytest.raises(SystemExit):
        run()
    assert cleaned


def test_a_tool_can_run_in_another_thread():
    """Only the main thread can set signal handlers."""
    finished = []

    def run():
        with tool_session(Namespace()):
            finished.append(True)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert finished
