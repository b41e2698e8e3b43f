"""A training of a linear layer on seven points, for tests of what surrounds a training."""

import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, MODELS
from torch import nn
from torch.utils.data import Dataset

from mmvmamba.engine.runner import build_runner


@MODELS.register_module()
class Layer(BaseModel):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 1)

    def forward(self, inputs, mode='tensor'):
        return {'loss': self.layer(torch.stack(inputs)).square().mean()}


@DATASETS.register_module()
class NamedPoints(Dataset):
    def __init__(self, classes=('a', 'b')):
        self.metainfo = dict(classes=classes)

    def __len__(self):
        return 7

    def __getitem__(self, index):
        return {'inputs': torch.ones(2) * index}


def small_config(work_dir, iterations, **changes):
    """A config that saves each iteration. `changes` are merged into it, under names as in --cfg-options."""
    cfg = Config(
        dict(
            default_scope='mmengine',
            model=dict(type='Layer'),
            work_dir=str(work_dir),
            experiment_name=f'{work_dir.parent.name}_{work_dir.name}_{iterations}',
            train_dataloader=dict(
                batch_size=2, num_workers=0, sampler=dict(type='InfiniteSampler'), dataset=dict(type='NamedPoints')
            ),
            train_cfg=dict(type='IterBasedTrainLoop', max_iters=iterations),
            optim_wrapper=dict(optimizer=dict(type='AdamW', lr=0.1)),
            param_scheduler=[
                dict(type='LinearLR', start_factor=0.5, by_epoch=False, begin=0, end=2),
                dict(type='MultiStepLR', by_epoch=False, milestones=[50], gamma=0.1),
            ],
            default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=1, by_epoch=False)),
            randomness=dict(seed=0),
        )
    )
    cfg.merge_from_dict(changes)
    return cfg


def small_training(work_dir, iterations, *hooks, resume=None, **changes):
    """Runs such a training, from a checkpoint if `resume` names one; its runner."""
    cfg = small_config(work_dir, iterations, **changes)
    cfg.resume, cfg.load_from = resume is not None, None if resume is None else str(resume)
    runner = build_runner(cfg, needs_training_state=cfg.resume)
    for hook in hooks:
        runner.register_hook(hook)
    runner.train()
    return runner
