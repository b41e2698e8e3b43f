"""Tests that checkpoints are complete under their final name, whatever ends the save."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import CheckpointHook
from mmengine.registry import HOOKS

from mmvmamba.engine.hooks.atomic_checkpoint import AtomicCheckpointHook
from mmvmamba.engine.runner import build_runner, replace_hooks

from ..small_training import small_config, small_training

KEEP = {'default_hooks.checkpoint.max_keep_ckpts': 1}
KILLED = """
import os, signal, sys
from pathlib import Path
import mmengine.runner.runner as module
from tests.test_engine.small_training import small_training

def save_half(checkpoint, filename, **kwargs):
    save(checkpoint, filename, **kwargs)
    if 'iter_3' in filename:
        os.truncate(filename, 300)
        os.kill(os.getpid(), signal.SIGKILL)

save, module.save_checkpoint = module.save_checkpoint, save_half
small_training(Path(sys.argv[1]), 4, **{'default_hooks.checkpoint.max_keep_ckpts': 1})
"""


def test_a_kill_during_a_save_leaves_the_previous_checkpoint_complete(tmp_path):
    done = subprocess.run([sys.executable, '-c', KILLED, tmp_path], cwd=Path(__file__).parents[3], check=False)
    assert done.returncode == -signal.SIGKILL
    assert [path.name for path in tmp_path.glob('*.pth')] == ['iter_2.pth']
    assert (tmp_path / 'last_checkpoint').read_text() == str(tmp_path / 'iter_2.pth')
    runner = small_training(tmp_path, 4, resume=tmp_path / 'iter_2.pth', **KEEP)
    assert runner.iter == 4
    assert [path.name for path in tmp_path.glob('*.pth*')] == ['iter_4.pth']


def test_the_outdated_checkpoint_is_removed_after_the_new_one_is_complete(tmp_path, monkeypatch):
    events = []
    replace, unlink = Path.replace, Path.unlink

    def record(name, function):
        def recorded(self, *args, **kwargs):
            events.append((name, self.name))
            return function(self, *args, **kwargs)

        monkeypatch.setattr(Path, name, recorded)

    record('replace', replace)
    record('unlink', unlink)
    small_training(tmp_path, 2, **KEEP)
    assert events == [
        ('replace', 'iter_1.pth.part'),
        ('replace', 'last_checkpoint'),
        ('replace', 'iter_2.pth.part'),
        ('replace', 'last_checkpoint'),
        ('unlink', 'iter_1.pth'),
    ]
    assert not list(tmp_path.glob('**/.saving')) and not list(tmp_path.glob('**/*.part'))


def test_a_failed_save_keeps_the_previous_checkpoint_and_names_the_file(tmp_path, monkeypatch):
    synced = []

    def sync(descriptor):
        synced.append(descriptor)
        if len(synced) > 2:  # the first checkpoint and its last_checkpoint
            raise OSError(28, 'No space left on device')

    monkeypatch.setattr(os, 'fsync', sync)
    with pytest.raises(OSError, match='No space left on device') as caught:
        small_training(tmp_path, 2, **KEEP)
    assert caught.value.filename == str(tmp_path / 'iter_2.pth')
    assert [path.name for path in tmp_path.glob('*.pth*')] == ['iter_1.pth']


def test_checkpoints_of_flexible_runner_are_atomic(tmp_path, monkeypatch):
    """Its strategies save without `backend_args` and in other functions than Runner."""
    cfg = small_config(tmp_path, 2, **KEEP)
    cfg.runner_type, cfg.strategy, cfg.env_cfg = 'FlexibleRunner', dict(type='SingleDeviceStrategy'), {}
    replaced = []
    replace = Path.replace
    monkeypatch.setattr(Path, 'replace', lambda self, path: replaced.append(self.name) or replace(self, path))
    build_runner(cfg).train()
    assert [path.name for path in tmp_path.glob('*.pth*')] == ['iter_2.pth']
    assert 'iter_2.pth.part' in replaced
    assert torch.load(tmp_path / 'iter_2.pth', weights_only=False)['meta']['iter'] == 2


@HOOKS.register_module()
class OwnCheckpointHook(CheckpointHook):
    """A hook of a user, which may rely on any detail of the original."""


def kinds(**default_hooks):
    cfg = Config(dict(default_scope='mmengine', default_hooks=default_hooks))
    replace_hooks(cfg)
    return {name: hook and hook.type for name, hook in cfg.default_hooks.items()}


@pytest.mark.parametrize('kind', ['CheckpointHook', 'mmengine.CheckpointHook', 'mmengine.hooks.CheckpointHook', None])
def test_the_tools_replace_the_hook_of_mmengine(kind, tmp_path):
    given = {} if kind is None else dict(checkpoint=dict(type=kind, interval=7))
    assert kinds(**given)['checkpoint'] == 'mmvmamba.engine.hooks.atomic_checkpoint.AtomicCheckpointHook'
    runner = build_runner(small_config(tmp_path, 1))
    assert sum(isinstance(hook, CheckpointHook) for hook in runner.hooks) == 1
    assert any(isinstance(hook, AtomicCheckpointHook) for hook in runner.hooks)


def test_a_hook_of_the_user_stays_and_is_reported(monkeypatch):
    lines = []
    monkeypatch.setattr('mmvmamba.engine.runner.print_log', lambda line, **_: lines.append(line))
    assert kinds(checkpoint=dict(type='OwnCheckpointHook'))['checkpoint'] == 'OwnCheckpointHook'
    assert len(lines) == 1 and lines[0].startswith('OwnCheckpointHook of this config stays: if the run is killed')


def test_a_config_may_set_default_hooks_to_none():
    cfg = Config(dict(default_hooks=None))
    replace_hooks(cfg)
    assert cfg.default_hooks.checkpoint.type.endswith('.AtomicCheckpointHook')


def test_a_removed_hook_stays_removed():
    assert kinds(checkpoint=None)['checkpoint'] is None
