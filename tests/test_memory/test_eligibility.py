"""Tests that hooks, subclasses, parametrizations and replaced layers take effect in every layer of a block."""

import copy
import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from mmvmamba.models.bimamba import BiMamba
from mmvmamba.models.layers import RMSNorm
from mmvmamba.models.ss2d import SS2D
from mmvmamba.models.vim import VimBlock
from mmvmamba.models.vmamba import VSSBlock

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d)
MAKE = {
    'vmamba': lambda: VSSBlock(8, SS2D(8, d_state=2), mlp_ratio=2, drop_path=0),
    'vanilla vmamba': lambda: VSSBlock(8, SS2D(8, d_state=2, gate=True, conv_bias=True), mlp_ratio=0, drop_path=0),
    'vim': lambda: VimBlock(8, BiMamba(8, d_state=4), drop_path=0),
    'vim, one convolution': lambda: VimBlock(8, BiMamba(8, d_state=4, backward_direction='ssm'), drop_path=0),
}
ROOT = Path(__file__).parents[2]


def cases(kinds):
    return [
        (family, name)
        for family, make in MAKE.items()
        for name, layer in make().named_modules()
        if isinstance(layer, kinds)
    ]


CASES, NORMS = cases(LAYERS), cases((nn.LayerNorm, RMSNorm))


class Factor(nn.Module):
    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(1.5))

    def forward(self, x):
        return x * self.factor


def wrap(block, name, factor):
    parent, _, child = name.rpartition('.')
    setattr(block.get_submodule(parent), child, nn.Sequential(block.get_submodule(name), factor))


def subclass(block, name, factor):
    layer = block.get_submodule(name)
    called = type(layer).forward
    layer.factor = factor
    layer.__class__ = type('Adapter', (type(layer),), dict(forward=lambda self, x: self.factor(called(self, x))))


def hook(block, name, factor):
    block.get_submodule(name).register_forward_hook(lambda layer, inputs, output: factor(output))


def pre_hook(block, name, factor):
    block.get_submodule(name).register_forward_pre_hook(lambda layer, inputs: factor(inputs[0]))


def global_hook(block, name, factor):
    watched = block.get_submodule(name)
    return nn.modules.module.register_module_forward_hook(
        lambda layer, inputs, output: factor(output) if layer is watched else None
    )


def own_forward(block, name, factor):
    layer = block.get_submodule(name)
    called = layer.forward
    layer.forward = lambda x: factor(called(x))


def parametrized(block, name, factor):
    parametrize.register_parametrization(block.get_submodule(name), 'weight', factor)


WAYS = (wrap, subclass, hook, pre_hook, global_hook, own_forward, parametrized)
WEIGHT_ONLY = (pre_hook, parametrized)  # these scale the weight but not the bias


def run(block, x):
    out = block(x, False) if isinstance(block, VimBlock) else block(x)
    return out[1] if isinstance(out, tuple) else out


def make_inputs(family, monkeypatch):
    """Returns a block in which every weight affects the output, with an input of several chunks."""
    monkeypatch.setattr('mmvmamba.memory.cpu_fast_path.CHUNK_TOKENS', 6)
    torch.manual_seed(0)
    block = MAKE[family]()
    for parameter in block.parameters():
        parameter.data.add_(torch.randn_like(parameter), alpha=0.3)
    return block, torch.randn(2, 20, 8) if 'vim' in family else torch.randn(2, 4, 5, 8)


@pytest.fixture
def inputs(monkeypatch):
    return partial(make_inputs, monkeypatch=monkeypatch)


@pytest.mark.parametrize(
    'family, name, way',
    [(*case, way) for case in CASES for way in WAYS]
    + [(*case, way) for case in NORMS for way in WAYS if way is not pre_hook],  # a norm undoes a factor
    ids=lambda value: getattr(value, '__name__', value),
)
def test_modified_layer_takes_effect(family, name, way, inputs):
    """Scaling the output of a layer is equivalent to scaling its weight and bias."""
    block, x = inputs(family)
    factor, scaled = Factor(), copy.deepcopy(block)
    layer = scaled.get_submodule(name)
    for parameter in (layer.weight,) if way in WEIGHT_ONLY else layer.parameters():
        parameter.data.mul_(factor.factor.data)
    expected = run(scaled, x)
    assert not torch.allclose(expected, run(block, x), atol=1e-4)
    handle = way(block, name, factor)
    try:
        out = run(block, x)
        out.square().sum().backward()
        with torch.no_grad():
            inferred = run(block, x)
    finally:
        if way is global_hook:
            handle.remove()
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(inferred, expected)
    expected.square().sum().backward()
    expected_grad = sum(
        (p.grad * p).sum() / factor.factor for p in ((layer.weight,) if way in WEIGHT_ONLY else layer.parameters())
    )
    torch.testing.assert_close(factor.factor.grad, expected_grad.detach(), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize('family, name', CASES + NORMS)
def test_backward_hooks_are_called(family, name, inputs):
    block, x = inputs(family)
    calls = []
    block.get_submodule(name).register_full_backward_hook(lambda *_: calls.append(name))
    run(block, x).sum().backward()
    assert calls


@pytest.mark.parametrize('family, name', [('vmamba', 'op'), ('vmamba', 'mlp'), ('vim', 'mixer')])
def test_mixer_hooks_see_the_norm_output(family, name, inputs):
    block, x = inputs(family)
    seen = []
    for watched in (block.get_submodule(name), block.norm2 if name == 'mlp' else block.norm):
        watched.register_forward_hook(lambda layer, inputs, output: seen.append((inputs, output)))
    expected = run(block, x)
    (_, normed), (arguments, _) = seen
    assert arguments[0] is normed and len(arguments) == (2 if family == 'vim' else 1)
    torch.testing.assert_close(run(copy.deepcopy(block), x), expected)


@pytest.mark.slow
def test_lora_adapters_of_peft_take_effect():
    """Runs in a subprocess that finds peft and its dependencies in a separate folder."""
    folder = Path(sys.prefix, 'peft')
    if not folder.exists():
        pytest.skip('peft is not installed beside the environment: make setup does that')
    file = Path(__file__).with_name('lora_of_peft.py')
    command = [sys.executable, '-m', 'pytest', '-p', 'no:xdist', '-q', '-o', 'addopts=', str(file)]
    done = subprocess.run(
        command, env=os.environ | {'PYTHONPATH': f'{folder}:{ROOT}'}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    assert re.search(rf'{len(CASES)} passed', done.stdout)


@pytest.mark.parametrize('name', ['mixer.in_proj', 'mixer.x_proj_b', 'mixer.out_proj'])
def test_added_bias_takes_effect(name, inputs):
    block, x = inputs('vim')
    before, layer = run(block, x), block.get_submodule(name)
    layer.bias = nn.Parameter(torch.ones(layer.out_features))
    after = run(block, x)
    assert not torch.allclose(after, before, atol=1e-3)
    with torch.no_grad():
        torch.testing.assert_close(run(block, x), after)


def test_replaced_conv1d_of_another_shape_is_rejected():
    mixer = BiMamba(8)
    mixer.conv1d = nn.Conv1d(16, 16, 3, groups=16, dilation=2)
    with pytest.raises(ValueError, match='Conv1d in the place of a convolution of BiMamba .* 4 taps'):
        mixer(torch.randn(1, 9, 8))


def test_conv1d_weights_of_another_size_are_rejected():
    """They are also rejected if the weights of both directions have the same wrong size."""
    mixer = BiMamba(8)
    for conv in (mixer.conv1d, mixer.conv1d_b):
        conv.weight = nn.Parameter(torch.randn(16, 1, 3))
    for context in (torch.enable_grad, torch.no_grad):
        with context(), pytest.raises(ValueError, match='Conv1d in the place of a convolution of BiMamba .* 4 taps'):
            mixer(torch.randn(1, 9, 8))


@pytest.mark.parametrize(
    'other',
    [
        dict(kernel_size=5, padding=2, groups=16),
        dict(kernel_size=3, padding=1),
        dict(kernel_size=3, padding=2, dilation=2, groups=16),
        dict(kernel_size=3, padding=1, groups=16, padding_mode='reflect'),
    ],
)
def test_replaced_conv2d_is_called(other):
    mixer, x, calls = SS2D(8), torch.randn(1, 5, 4, 8), []
    mixer.conv2d = nn.Conv2d(16, 16, bias=False, **other)
    expected = mixer(x)
    mixer.conv2d.register_forward_hook(lambda *_: calls.append(1))
    torch.testing.assert_close(mixer(x), expected)
    assert calls


def test_replaced_conv2d_that_shrinks_the_map_is_rejected():
    mixer = SS2D(8)
    mixer.conv2d = nn.Conv2d(16, 16, 3, groups=16)
    with pytest.raises(ValueError, match='Conv2d in the place of the convolution of SS2D .* must keep the shape'):
        mixer(torch.randn(1, 5, 4, 8))
