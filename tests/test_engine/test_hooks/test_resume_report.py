"""A resumed training reports what differs from the previous one, and which value takes effect."""

import pytest
import torch

from mmvmamba.checkpoint import CheckpointError
from mmvmamba.engine.hooks.resume_report import RANKS, ResumeReportHook

from ..small_training import small_training


@pytest.fixture
def trained(tmp_path):
    small_training(tmp_path / 'before', 3, ResumeReportHook())
    return tmp_path / 'before' / 'iter_3.pth'


@pytest.fixture
def resume(trained, tmp_path, monkeypatch):
    """Resumes with changes of the config; the runner and the lines of the report."""

    def run(*, checkpoint=trained, iterations=3, **changes):
        lines = []
        monkeypatch.setattr('logging.Logger.warning', lambda self, text, *args, **_: lines.append(text))
        folder = tmp_path / f'after{len(list(tmp_path.iterdir()))}'
        runner = small_training(folder, iterations, ResumeReportHook(), resume=checkpoint, **changes)
        return runner, [line for line in lines if 'takes effect' in line]

    return run


def test_nothing_is_reported_where_nothing_differs(resume):
    assert resume()[1] == []


def test_settings_of_optimizer_and_schedule_are_those_of_the_checkpoint(resume):
    changes = {
        'optim_wrapper.optimizer.lr': 0.2,
        'optim_wrapper.optimizer.betas': (0.8, 0.9),
        'param_scheduler.1.milestones': [2, 60],
        'param_scheduler.1.gamma': 0.5,
    }
    runner, lines = resume(**changes)
    effect = 'the value of the checkpoint takes effect.'
    assert lines == [
        f'optim_wrapper.optimizer.betas: (0.9, 0.999) in the checkpoint, (0.8, 0.9) in this run; {effect}',
        f'optim_wrapper.optimizer.lr: 0.1 in the checkpoint, 0.2 in this run; {effect}',
        f'param_scheduler.1.gamma: 0.1 in the checkpoint, 0.5 in this run; {effect}',
        'param_scheduler.1.milestones: Counter({50: 1}) in the checkpoint, Counter({2: 1, 60: 1}) in this run; '
        + effect,
    ]
    [group] = runner.optim_wrapper.param_groups
    assert (group['lr'], tuple(group['betas'])) == (0.1, (0.9, 0.999))
    assert dict(runner.param_schedulers[1].milestones) == {50: 1} and runner.param_schedulers[1].gamma == 0.1


def test_length_batch_classes_and_ranks_are_those_of_the_run(resume, trained):
    content = torch.load(trained, weights_only=False)
    assert content['meta'][RANKS] == 1
    content['meta'][RANKS] = 4
    torch.save(content, trained)
    changes = {
        'train_dataloader.batch_size': 3,
        'train_dataloader.dataset.classes': ['a', 'c'],
        'optim_wrapper.clip_grad': dict(max_norm=1.0),
    }
    runner, lines = resume(iterations=5, **changes)
    assert sorted(lines) == sorted(
        [
            'number of ranks: 4 in the checkpoint, 1 in this run; the value of this run takes effect.',
            "classes: ['a', 'b'] in the checkpoint, ['a', 'c'] in this run; the value of this run takes effect, but "
            'the weights were trained for the previous classes.',
            'train_dataloader.batch_size: 2 in the checkpoint, 3 in this run; the value of this run takes effect.',
            "train_dataloader.dataset.classes: not set in the checkpoint, ['a', 'c'] in this run; the value of this "
            'run takes effect.',
            # a schedule without an end has that of the training
            'param_scheduler.1.end: 3 in the checkpoint, 5 in this run; the value of the checkpoint takes effect.',
            'train_cfg.max_iters: 3 in the checkpoint, 5 in this run; the value of this run takes effect.',
            "optim_wrapper.clip_grad: not set in the checkpoint, {'max_norm': 1.0} in this run; the value of this run "
            'takes effect.',
        ]
    )
    assert (runner.iter, runner.train_dataloader.batch_size) == (5, 3)


def test_the_seed_is_that_of_the_checkpoint(resume):
    runner, lines = resume(**{'randomness.seed': 5})
    assert lines == ['randomness.seed: 0 in the checkpoint, 5 in this run; the value of the checkpoint takes effect.']
    assert runner.seed == 0


def test_a_checkpoint_without_config_or_ranks_resumes(resume, trained):
    content = torch.load(trained, weights_only=False)
    del content['meta']['cfg'], content['meta'][RANKS]
    torch.save(content, trained)
    assert resume(**{'train_dataloader.batch_size': 3})[1] == []


OTHER_OPTIMIZERS = {
    'SGD': dict(type='SGD', lr=0.1, momentum=0.9),
    'Adam': dict(type='Adam', lr=0.1),  # of the same settings and state
    'RMSprop': dict(type='RMSprop', lr=0.1),
}


@pytest.mark.parametrize('name', OTHER_OPTIMIZERS)
@pytest.mark.parametrize('known', [True, False], ids=['named', 'unnamed'])
def test_another_optimizer_is_rejected_before_a_step(name, known, tmp_path):
    if name == 'Adam' and not known:
        pytest.skip('nothing tells them apart')
    for first, second in (('AdamW', name), (name, 'AdamW')):
        optimizers = OTHER_OPTIMIZERS | {'AdamW': dict(type='AdamW', lr=0.1)}
        before, after = tmp_path / first / 'before', tmp_path / first / 'after'
        small_training(before, 2, ResumeReportHook(), **{'optim_wrapper.optimizer': optimizers[first]})
        if not known:
            content = torch.load(before / 'iter_2.pth', weights_only=False)
            content['meta'].pop('cfg')
            torch.save(content, before / 'iter_2.pth')
        change = {'optim_wrapper.optimizer': optimizers[second]}
        with pytest.raises(CheckpointError, match=f'iter_2.pth has the state of .*{second}.*load_from='):
            small_training(after, 3, ResumeReportHook(), resume=before / 'iter_2.pth', **change)
        assert not list(after.glob('*.pth'))


def test_other_parameter_groups_are_rejected(resume):
    change = {'optim_wrapper.paramwise_cfg': dict(custom_keys={'layer': dict(lr_mult=0.1)})}
    with pytest.raises(CheckpointError, match='has the state of 2 parameters in 1 groups, but the AdamW .* 2 in 2'):
        resume(**change)


@pytest.mark.parametrize('damage', ['shape', 'state', 'groups'])
def test_a_damaged_state_of_the_optimizer_is_rejected(damage, resume, trained):
    content = torch.load(trained, weights_only=False)
    state = content['optimizer']
    if damage == 'shape':
        state['state'][0]['exp_avg'] = torch.zeros(1, 1)  # broadcasts
    else:
        state.update({'state': {'state': []}, 'groups': {'param_groups': [1]}}[damage])
    torch.save(content, trained)
    with pytest.raises(CheckpointError, match='iter_3.pth has the state of .*: resume with the optimizer'):
        resume()


@pytest.mark.parametrize(
    'schedulers, message',
    [
        (
            [dict(type='LinearLR', by_epoch=False, end=2)],
            'has the state of 2 schedulers, but this config has 1 in ',
        ),
        (
            [dict(type='ConstantLR', by_epoch=False, end=2), dict(type='MultiStepLR', by_epoch=False, milestones=[5])],
            r'param_scheduler\.0 of this config is a ConstantLR, but .* the state of another kind',
        ),
        (
            [dict(type='LinearLR', by_epoch=False, end=2), dict(type='ExponentialLR', by_epoch=False, gamma=0.9)],
            r'param_scheduler\.1 of this config is a ExponentialLR',
        ),
    ],
)
def test_other_kinds_of_schedule_are_rejected(schedulers, message, resume):
    with pytest.raises(CheckpointError, match=message):
        resume(param_scheduler=schedulers)
