"""Tests that resuming restores only the required training state from a checkpoint and trusts nothing else in it."""

import pytest
import torch
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, METRICS, MODELS
from torch import nn
from torch.utils.data import Dataset

from mmvmamba.checkpoint import CheckpointError, loading
from mmvmamba.engine import runner as runner_module
from mmvmamba.engine.hooks import official_checkpoint
from mmvmamba.engine.runner import build_runner
from mmvmamba.engine.training_state import check_training_state, sanitize_resume_state


@MODELS.register_module()
class Line(BaseModel):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 1)

    def forward(self, inputs, mode='tensor'):
        prediction = self.layer(torch.stack(inputs) if isinstance(inputs, list) else inputs)
        return {'loss': prediction.square().mean()} if mode == 'loss' else prediction


@DATASETS.register_module()
class Points(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return {'inputs': torch.ones(2) * index}


@METRICS.register_module()
class Rising(BaseMetric):
    """A score that improves at each evaluation, so that the best checkpoint is replaced."""

    count = 0

    def process(self, *_):
        self.results.append(0)

    def compute_metrics(self, results):
        Rising.count += 1
        return {'score': Rising.count}


def config(work_dir, iterations):
    loader = dict(batch_size=2, num_workers=0, dataset=dict(type='Points'))
    return Config(
        dict(
            default_scope='mmengine',
            model=dict(type='Line'),
            work_dir=str(work_dir),
            experiment_name=f'{work_dir.parent.name}_{work_dir.name}',  # a unique name, or runs share a visualizer
            train_dataloader=loader | dict(sampler=dict(type='InfiniteSampler')),
            train_cfg=dict(type='IterBasedTrainLoop', max_iters=iterations, val_interval=1),
            optim_wrapper=dict(optimizer=dict(type='AdamW', lr=0.1)),
            val_dataloader=loader | dict(sampler=dict(type='DefaultSampler', shuffle=False)),
            val_cfg=dict(),
            val_evaluator=dict(type='Rising'),
            default_hooks=dict(
                checkpoint=dict(type='CheckpointHook', interval=1, by_epoch=False, save_best='score', rule='greater')
            ),
        )
    )


@pytest.fixture
def trained(tmp_path):
    build_runner(config(tmp_path / 'run', 2)).train()
    return tmp_path / 'run'


def test_resume_does_not_delete_paths_named_in_a_checkpoint(trained, tmp_path):
    (tmp_path / 'best_of_all.pth').write_text('precious')
    (tmp_path / 'folder').mkdir()
    (tmp_path / 'folder' / 'inside').write_text('precious')
    content = torch.load(trained / 'iter_2.pth', weights_only=False)
    for named in (tmp_path / 'best_of_all.pth', tmp_path / 'folder', '../best_of_all.pth', tmp_path / 'folder/inside'):
        content['message_hub']['runtime_info'] |= dict(best_ckpt=str(named), best_score=-1)
        torch.save(content, tmp_path / 'crafted.pth')
        cfg = config(trained, 3)
        cfg.load_from, cfg.resume = str(tmp_path / 'crafted.pth'), True
        build_runner(cfg, needs_training_state=True).train()
    assert (tmp_path / 'best_of_all.pth').read_text() == 'precious'
    assert (tmp_path / 'folder' / 'inside').read_text() == 'precious'


def test_resume_replaces_the_best_checkpoint_of_this_run(trained, tmp_path):
    """This also works after the work dir has been moved."""
    moved = trained.rename(tmp_path / 'moved')
    assert [path.name for path in moved.glob('best_*')] == ['best_score_iter_2.pth']
    cfg = config(moved, 3)
    cfg.load_from, cfg.resume = str(moved / 'iter_2.pth'), True
    build_runner(cfg, needs_training_state=True).train()
    assert [path.name for path in moved.glob('best_*')] == ['best_score_iter_3.pth']


def test_checkpoint_is_read_once_and_matched_once(trained, tmp_path, monkeypatch):
    """Counts the calls by the tool, the hook and mmengine's own loader."""
    calls = []

    def counted(module, name):
        function = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *args, **kwargs: calls.append(name) or function(*args, **kwargs))

    counted(runner_module, 'read_checkpoint')
    counted(loading, 'match_state_dict')
    counted(official_checkpoint, 'match_state_dict')
    cfg = config(tmp_path / 'next', 1)
    cfg.load_from = str(trained / 'iter_2.pth')
    runner = build_runner(cfg)
    runner.load_or_resume()
    weights = torch.load(cfg.load_from, weights_only=False)['state_dict']
    assert torch.equal(runner.model.layer.weight, weights['layer.weight'])
    assert calls == ['read_checkpoint', 'match_state_dict']


DAMAGE = {
    'meta': lambda c: c.update(meta=[]),
    'meta.iter': lambda c: c['meta'].update(iter='four'),
    'meta.epoch': lambda c: c['meta'].pop('epoch'),
    'meta.seed': lambda c: c['meta'].update(seed=-1.5),
    'message_hub': lambda c: c['message_hub'].pop('runtime_info'),
    'optimizer': lambda c: c.update(optimizer=7),
    'param_schedulers': lambda c: c.update(param_schedulers='none'),
    'keep_ckpt_ids': lambda c: c['message_hub']['runtime_info'].update(keep_ckpt_ids=['/../../home']),
    'contains NaN or Inf': lambda c: c['optimizer']['state'][0]['exp_avg'].fill_(torch.nan),
}


@pytest.mark.parametrize('message', DAMAGE)
def test_damaged_training_state_is_rejected(message, trained):
    content = torch.load(trained / 'iter_2.pth', weights_only=False)
    check_training_state(content, 'iter_2.pth')
    sanitize_resume_state(content, trained)
    DAMAGE[message](content)
    with pytest.raises(CheckpointError, match=rf'iter_2\.pth.*{message}|{message}.*iter_2\.pth'):
        check_training_state(content, 'iter_2.pth')
