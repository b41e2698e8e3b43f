"""Tests that training stops before a non-finite loss reaches the weights, and that the error names its source."""

import os

import pytest
import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, MODELS
from torch import nn
from torch.utils.data import Dataset

from mmvmamba.engine.distributed import CPUDistributedDataParallel
from mmvmamba.engine.errors import TrainingError
from mmvmamba.engine.runner import build_runner
from mmvmamba.models import Vim, VMamba
from tests.test_models.test_contract import SMALL


class Log(nn.Module):
    def forward(self, x):
        return x.log()


@MODELS.register_module()
class LogOfLayer(BaseModel):
    """Has a non-finite loss for negative inputs, and records whether its layers have hooks."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(1, 1, bias=False), Log(), nn.Linear(1, 1))
        nn.init.ones_(self.layers[0].weight)
        self.watched = []

    def forward(self, inputs, mode):
        self.watched.append(any(layer._forward_hooks for layer in self.layers))
        return dict(loss_log=[self.layers(torch.stack(inputs)).square()], acc=torch.tensor(float('nan')))


@MODELS.register_module()
class MeanOfNorm(BaseModel):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(1)

    def forward(self, inputs, mode):
        return dict(loss=self.norm(torch.stack([*inputs, *inputs])).mean())


@MODELS.register_module()
class MeanOfBackbone(BaseModel):
    def __init__(self, backbone):
        super().__init__()
        self.backbone = MODELS.build(backbone)

    def forward(self, inputs, mode):
        return dict(loss=sum(out.mean() for out in self.backbone(torch.stack(inputs))))


@DATASETS.register_module()
class Given(Dataset):
    def __init__(self, values, shape):
        self.values, self.shape = values, shape

    def __len__(self):
        return len(self.values)

    def __getitem__(self, index):
        return {'inputs': torch.full(self.shape, float(self.values[index]))}


def runner(work_dir, model, values=(1, 2, 3, 4), shape=(1,), **settings):
    return build_runner(
        Config(
            dict(
                default_scope='mmengine',
                model=model,
                work_dir=str(work_dir),
                train_dataloader=dict(
                    batch_size=1,
                    num_workers=0,
                    sampler=dict(type='DefaultSampler', shuffle=False),
                    dataset=dict(type='Given', values=values, shape=shape),
                ),
                train_cfg=dict(by_epoch=True, max_epochs=1),
                optim_wrapper=dict(optimizer=dict(type='SGD', lr=1e-3)),
                custom_hooks=[dict(type='mmvmamba.engine.hooks.finite_loss.FiniteLossHook')],
                **settings,
            )
        )
    )


def test_finite_losses_do_not_stop_training(tmp_path):
    run = runner(tmp_path, dict(type='LogOfLayer'))
    run.train()
    assert run.iter == 4 and not any(run.model.watched)
    assert not any(module._forward_hooks for module in run.model.modules())


def test_error_names_the_module_and_weights_are_unchanged(tmp_path):
    run = runner(tmp_path, dict(type='LogOfLayer'), values=(1, 2, -1, 4))
    said = r'iteration 3 is not finite \(loss_log nan\): .* layers.1 \(Log; input finite and weights finite\)'
    with pytest.raises(TrainingError, match=said):
        run.train()
    assert all(weight.isfinite().all() for weight in run.model.parameters())
    assert run.model.watched == [False, False, False, True]
    assert not any(module._forward_hooks for module in run.model.modules())


def test_non_finite_image_is_reported_as_the_source(tmp_path):
    with pytest.raises(TrainingError, match=r'layers.0 \(Linear; input not finite and weights finite\)'):
        runner(tmp_path, dict(type='LogOfLayer'), values=[float('inf')]).train()


def test_batch_norm_statistics_may_be_non_finite(tmp_path):
    """BatchNorm updates its statistics before the non-finite values can be detected."""
    with pytest.raises(TrainingError, match=r'norm \(BatchNorm1d; input not finite and weights finite\)'):
        runner(tmp_path, dict(type='MeanOfNorm'), values=[float('nan')]).train()


@pytest.mark.parametrize('family', [VMamba, Vim], ids=lambda family: family.__name__)
def test_error_names_a_layer_inside_a_backbone(tmp_path, family):
    run = runner(
        tmp_path, dict(type='MeanOfBackbone', backbone=dict(type=family.__name__, **SMALL[family])), [1], (3, 32, 32)
    )
    name, weight = [(name, weight) for name, weight in run.model.named_parameters() if 'in_proj' in name][-1]
    with torch.no_grad():
        weight.view(-1)[0] = float('nan')
    with pytest.raises(
        TrainingError, match=rf'{name.rpartition(".")[0]} \(Linear; input finite and weights not finite\)'
    ):
        run.train()


def train_one_of_two(rank, folder):
    """Rank 1 gets a batch with a non-finite loss."""
    torch.set_num_threads(1)
    os.environ['LOCAL_RANK'] = str(rank)  # required by mmengine
    torch.distributed.init_process_group('gloo', init_method=f'file://{folder}/rendezvous', rank=rank, world_size=2)
    parallel = dict(
        launcher='pytorch', model_wrapper_cfg=dict(type=CPUDistributedDataParallel.__name__, device_ids=None)
    )
    try:
        runner(folder, dict(type='LogOfLayer'), values=(1, 2, 3, -1), **parallel).train()
    except TrainingError as error:
        (folder / f'said{rank}').write_text(str(error))
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_all_ranks_stop_together(tmp_path):
    torch.multiprocessing.spawn(train_one_of_two, args=(tmp_path,), nprocs=2)
    said = [(tmp_path / f'said{rank}').read_text() for rank in range(2)]
    assert 'iteration 2 is not finite (on another rank)' in said[0]
    assert 'iteration 2 is not finite (loss_log nan)' in said[1] and 'layers.1 (Log' in said[1]
