"""Tests LoRA adapters of peft; `test_eligibility.py` runs this file if peft is installed."""

import copy

import peft
import pytest
import torch
from torch import nn

from .test_eligibility import CASES, make_inputs, run


@pytest.mark.parametrize('family, name', CASES)
def test_lora_of_peft(family, name, monkeypatch):
    """A peft adapter is equivalent to adding the product of its matrices to the weight, and it receives gradients."""
    block, x = make_inputs(family, monkeypatch)
    rank = getattr(block.get_submodule(name), 'groups', 4)  # peft requires a rank that is a multiple of the groups
    adapted = copy.deepcopy(block)
    config = peft.LoraConfig(r=rank, target_modules=[name], init_lora_weights=False)
    peft.inject_adapter_in_model(config, adapted)
    lora = adapted.get_submodule(name)
    down, up = (part['default'] for part in (lora.lora_A, lora.lora_B))
    layer = block.get_submodule(name)
    if isinstance(layer, nn.Linear):
        product = up.weight @ down.weight
    else:  # peft adds a dense convolution to the depthwise one
        product = up.weight * down.weight
        layer.groups = 1
        diagonal = torch.eye(layer.out_channels).view(*product.shape[:2], *[1] * len(layer.kernel_size))
        layer.weight.data = layer.weight * diagonal
    layer.weight.data += lora.scaling['default'] * product.detach()
    expected = run(block, x)
    out = run(adapted, x)
    with torch.no_grad():
        torch.testing.assert_close(run(adapted, x), expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(out, expected, atol=1e-4, rtol=1e-4)
    out.square().sum().backward()
    assert down.weight.grad.abs().max() > 0 and up.weight.grad.abs().max() > 0
