from threading import Event

import pytest
import torch
from torch import nn

from mmvmamba import VMamba
from mmvmamba.engine.errors import LaunchError
from mmvmamba.engine.interruptible import interruptible


@pytest.fixture
def model():
    return nn.ModuleDict(dict(backbone=VMamba(dict(dims=8, depths=(1, 1, 2, 1))))).eval()


def test_reports_rise_during_a_forward_pass(model):
    shares = []
    with interruptible(model, Event(), shares.append):
        model.backbone(torch.zeros(1, 3, 64, 64))
    assert shares[0] == 0 and 0.5 < shares[-1] < 1
    assert shares == sorted(shares) and len(set(shares)) > 5


def test_cancelled_forward_pass_stops_before_the_next_block(model):
    cancelled, shares = Event(), []

    def report(share):
        shares.append(share)
        if len(shares) == 3:
            cancelled.set()

    with interruptible(model, cancelled, report), pytest.raises(LaunchError, match='Cancelled'):
        model.backbone(torch.zeros(1, 3, 64, 64))
    assert len(shares) == 3


def test_layers_are_not_hooked_and_blocks_only_inside_of_the_context(model):
    with interruptible(model, Event(), lambda share: None):
        hooked = [module for module in model.modules() if module._forward_pre_hooks]
        assert len(hooked) > 5 and all(next(module.children(), None) is not None for module in hooked)
    assert not any(module._forward_pre_hooks for module in model.modules())
