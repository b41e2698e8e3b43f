import logging
import re

import pytest

from mmvmamba.engine.runner import build_runner
from mmvmamba.engine.terminal import is_for_terminal

from .small_training import small_config


def train(work_dir, capsys):
    cfg = small_config(work_dir, 2, **{'optim_wrapper.paramwise_cfg': dict(bias_decay_mult=0.0)})
    cfg.log_processor = dict(by_epoch=False)
    cfg.default_hooks.logger = dict(type='LoggerHook', interval=1)
    cfg.optim_wrapper.optimizer.weight_decay = 0.1
    runner = build_runner(cfg)
    runner.logger.warning('A warning.')
    runner.train()
    [log] = work_dir.glob('*/*.log')
    return capsys.readouterr().out, log


DETAILS = (
    'System environment:',
    'Config:\n',
    'Hooks will be executed in the following order',
    'paramwise_options -- layer.bias:weight_decay=0.0',
    'SyncBatchNorm',
)


def test_the_terminal_shows_header_warnings_and_progress_only(tmp_path, capsys):
    terminal, log = train(tmp_path / 'run', capsys)
    assert 'A warning.' in terminal
    assert re.search(r'Iter\(train\) \[1/2\].* eta: ', terminal)
    assert not [detail for detail in DETAILS if detail in terminal]
    assert len(terminal.splitlines()) < 15


def test_the_log_file_is_complete(tmp_path, capsys):
    terminal, log = train(tmp_path / 'run', capsys)
    content = log.read_text()
    assert not [detail for detail in DETAILS if detail not in content]
    assert {line.rpartition(' - ')[2] for line in terminal.splitlines()} <= {
        line.rpartition(' - ')[2] for line in content.splitlines()
    }


def test_the_header_names_folders_device_and_model(tmp_path, capsys):
    terminal, log = train(tmp_path / 'run', capsys)
    header = dict(re.findall(r'^(work dir|log file|device|model) +(.+)$', terminal, re.MULTILINE))
    assert header['work dir'] == str(tmp_path / 'run')
    assert header['log file'] == str(log)
    assert header['device']
    assert header['model'] == 'Layer, 0.00 million parameters'
    assert '\nscan ' not in terminal  # the model has no scan


@pytest.mark.parametrize(
    'message, shown',
    [
        ('depth 3: 12 tensors, lr 0.001 (x 0.7), weight decay 0.1', False),
        ('"FileClient" will be deprecated in future.', False),
        ('Load checkpoint from Config: of another run', True),
        ('VMamba starts from random weights: its init_cfg is None.', True),
    ],
)
def test_only_details_are_left_out(message, shown):
    assert is_for_terminal(logging.LogRecord('mmengine', logging.INFO, '', 0, message, None, None)) == shown
