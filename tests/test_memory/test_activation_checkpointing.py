"""Every kind of activation checkpointing of PyTorch gives the gradients that the operators and mixers have without."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
    set_checkpoint_early_stop,
)

from mmvmamba.models.bimamba import BiMamba
from mmvmamba.models.ss2d import SS2D
from mmvmamba.models.vim import VimBlock
from mmvmamba.models.vmamba import VSSBlock
from mmvmamba.ops import conv_silu_1d, conv_silu_2d, selective_scan_2d

MAP, SEQUENCE = (2, 3, 5, 6), (2, 15, 6)


class Operator(nn.Module):
    """An operator between two layers that keep their inputs, with parameters of these shapes."""

    def __init__(self, function, *shapes):
        super().__init__()
        self.function = function
        self.weights = nn.ParameterList(torch.randn(shape) for shape in shapes)

    def forward(self, x):
        return self.function(x.sin(), *self.weights).sin()


class Stream(nn.Module):
    """What a block of Vim hands to the next one."""

    def __init__(self, block):
        super().__init__()
        self.block = block

    def forward(self, x):
        return self.block(x, False)[1]


def scan(x, dt, A, B, C, dt_weight):
    return selective_scan_2d(x, dt, -A.exp(), B, C, dt_weight=dt_weight)


def convolutions(x, weights, biases):
    return conv_silu_1d(x, weights, biases, (False, True))


CASES = {
    'scan': (lambda: Operator(scan, (2, 4, 3, 5, 2), (4, 6, 2), *[(2, 4, 3, 5, 2)] * 2, (4, 6, 2)), MAP),
    'convolution of a map': (lambda: Operator(conv_silu_2d, (6, 1, 3, 3), (6,)), MAP),
    'convolutions of a sequence': (lambda: Operator(convolutions, (2, 6, 4), (2, 6)), SEQUENCE),
    'SS2D': (lambda: SS2D(6), MAP),
    'SS2D with a gate': (lambda: SS2D(6, gate=True, conv_bias=True), MAP),
    'BiMamba': (lambda: BiMamba(6, d_state=2), SEQUENCE),
    'VSSBlock': (lambda: VSSBlock(6, SS2D(6), mlp_ratio=4.0, drop_path=0.0), MAP),
    'VimBlock': (lambda: Stream(VimBlock(6, BiMamba(6, d_state=2), drop_path=0.0)), SEQUENCE),
}


OURS = {torch.ops.mmvmamba.selective_scan_2d.default, torch.ops.mmvmamba.conv_silu.default}
PRODUCTS = {torch.ops.aten.mm.default, torch.ops.aten.addmm.default}


def selective(run, x, saved):
    """Keeps the results of the operators in `saved`, and recomputes the others."""

    def policy(ctx, op, *args, **kwargs):
        return CheckpointPolicy.MUST_SAVE if op in saved else CheckpointPolicy.PREFER_RECOMPUTE

    return checkpoint(run, x, use_reentrant=False, context_fn=partial(create_selective_checkpoint_contexts, policy))


KINDS = {
    'reentrant': partial(checkpoint, use_reentrant=True),
    'non-reentrant': partial(checkpoint, use_reentrant=False),
    'nested': lambda run, x: checkpoint(lambda x: checkpoint(run, x, use_reentrant=False), x, use_reentrant=False),
    'keeping our operators': partial(selective, saved=OURS),
    'keeping products': partial(selective, saved=PRODUCTS),
    'keeping both': partial(selective, saved=OURS | PRODUCTS),
    'keeping nothing': partial(selective, saved=set()),
}


def value_and_grads(run, module, shape, autocast):
    torch.manual_seed(0)
    x = torch.randn(shape, requires_grad=True)
    with torch.autocast('cpu', torch.bfloat16, enabled=autocast):
        y = run(module, x)
    module.zero_grad()
    y.float().square().sum().backward()
    return [y, x.grad, *(parameter.grad.clone() for parameter in module.parameters())]


@pytest.mark.parametrize('early_stop', [True, False], ids=['early stop', 'no early stop'])
@pytest.mark.parametrize('autocast', [False, True], ids=['float32', 'autocast'])
@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('case', CASES)
def test_gradients_are_bit_equal(case, kind, autocast, early_stop):
    make, shape = CASES[case]
    torch.manual_seed(0)
    module = make()
    expected = value_and_grads(lambda module, x: module(x), module, shape, autocast)
    with set_checkpoint_early_stop(early_stop):
        found = value_and_grads(KINDS[kind], module, shape, autocast)
    assert all(map(torch.equal, found, expected))


@pytest.mark.parametrize('kind', ['non-reentrant', 'keeping our operators'])
@pytest.mark.parametrize('case', ['SS2D', 'VSSBlock', 'VimBlock'])
def test_compiled(case, kind):
    make, shape = CASES[case]
    torch.manual_seed(0)
    module = make()
    expected = value_and_grads(lambda module, x: module(x), module, shape, autocast=False)
    compiled = torch.compile(partial(KINDS[kind], module), backend='aot_eager', fullgraph=True)
    found = value_and_grads(lambda module, x: compiled(x), module, shape, autocast=False)
    torch.testing.assert_close(found, expected)
