"""A parameter without a gradient ends a distributed training after its first step, by name."""

from types import SimpleNamespace

import pytest
import torch
from mmengine.optim import OptimWrapper
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mmvmamba import VMamba
from mmvmamba.engine.errors import TrainingError
from mmvmamba.engine.hooks.unused_parameters import UnusedParametersHook


class Maps(nn.Module):
    """Gives two maps, of which a head reads one."""

    def __init__(self, reads=1):
        super().__init__()
        self.norm0, self.norm1, self.frozen = nn.LayerNorm(3), nn.LayerNorm(3), nn.Linear(3, 3)
        self.frozen.requires_grad_(False)
        self.reads = reads

    def forward(self, x):
        return (self.norm0(x), self.norm1(x))[self.reads].sum() + (self.norm0(x).sum() if self.reads == 0 else 0)


@pytest.fixture
def process_group(tmp_path):
    torch.distributed.init_process_group('gloo', init_method=f'file://{tmp_path}/meet', rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def train(model, iterations=2, accumulative_counts=1):
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1), accumulative_counts=accumulative_counts)
    runner, hook = SimpleNamespace(model=model, optim_wrapper=wrapper), UnusedParametersHook()
    hook.before_train(runner)
    for index in range(iterations):
        hook.before_train_iter(runner, index)
        with wrapper.optim_context(model):
            loss = model(torch.rand(2, 3))
        wrapper.update_params(loss)
        hook.after_train_iter(runner, index)


def test_the_parameters_and_the_ways_out_are_named(process_group):
    message = r'2 of 4 parameters received no gradient .*\(norm0\.weight, norm0\.bias\).*find_unused_parameters'
    with pytest.raises(TrainingError, match=message):
        train(DistributedDataParallel(Maps()))


def test_unread_output_of_a_backbone_ends_the_training_before_the_first_step(process_group):
    model = nn.Module()
    model.backbone = VMamba(dict(dims=4, depths=(1, 1, 1, 1)), out_indices=(0, 1))
    model.neck = Last()
    with pytest.raises(TrainingError, match='reads an output of the backbone, so backbone.outnorm0.weight, backbone.o'):
        train(DistributedDataParallel(model), iterations=0)
    train(DistributedDataParallel(model, find_unused_parameters=True), iterations=0)


class Last(nn.Module):
    def forward(self, maps):
        return maps[1:]


def test_pytorch_stops_at_the_second_step(process_group):
    """Otherwise the check is not needed."""
    model = DistributedDataParallel(Maps())
    model(torch.rand(2, 3)).backward()
    with pytest.raises(RuntimeError, match='Expected to have finished reduction'):
        model(torch.rand(2, 3))


@pytest.mark.parametrize('model', [Maps, nn.Linear], ids=['unused', 'used'])
def test_other_trainings_are_left_alone(model, process_group):
    if model is Maps:
        train(Maps())
        train(DistributedDataParallel(Maps(), find_unused_parameters=True))
    else:
        train(DistributedDataParallel(nn.Sequential(nn.Linear(3, 1), nn.Flatten(0)).append(Sum())))


class Sum(nn.Module):
    def forward(self, x):
        return x.sum()


def test_accumulated_steps_count_when_gradients_are_exchanged(process_group):
    model = DistributedDataParallel(Maps())
    train(model, iterations=2, accumulative_counts=3)
    with pytest.raises(TrainingError, match='2 of 4 parameters'):
        train(model, iterations=3, accumulative_counts=3)
