"""The projected causal convolution with SiLU, whole and in pieces, against PyTorch's 1-D convolution."""

import pytest
import torch
import torch.nn.functional as F

from mmvmamba.ops import cpu_fastpath
from mmvmamba.ops.cpu_fastpath import project_conv_silu

REVERSE = (False, True)


def expected_of(x, in_weight, weights, biases):
    """By definition: the reversed branch is the forward one on the flipped sequence."""
    maps, x = [], x @ in_weight.T
    for weight, bias, reverse in zip(weights, biases, REVERSE):
        natural = x.flip(1) if reverse else x
        y = F.conv1d(F.pad(natural.transpose(1, 2), (3, 0)), weight[:, None], bias, groups=len(weight)).transpose(1, 2)
        maps.append(F.silu(y.flip(1) if reverse else y))
    return torch.stack(maps, 1)


def make(length, channels=8, dtype=torch.float32):
    torch.manual_seed(0)
    weights, biases = torch.randn(2, channels, 4, dtype=dtype), torch.randn(2, channels, dtype=dtype)
    x, in_weight = torch.randn(2, length, 3, dtype=dtype), torch.randn(channels, 3, dtype=dtype)
    return x, in_weight, weights, biases


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize('length', [1, 2, 9, 11])
def test_both_directions(length, dtype, monkeypatch):
    monkeypatch.setattr(cpu_fastpath, 'PIECE', 4)
    inputs = make(length, 6, dtype)
    tolerance = dict(atol=0.1, rtol=0.05) if dtype == torch.bfloat16 else {}
    torch.testing.assert_close(project_conv_silu(*inputs, REVERSE), expected_of(*inputs), **tolerance)
    with torch.no_grad():
        torch.testing.assert_close(project_conv_silu(*inputs, REVERSE), expected_of(*inputs), **tolerance)


def test_one_direction():
    x, in_weight, weights, biases = inputs = make(5)
    for k, reverse in enumerate(REVERSE):
        y = project_conv_silu(x, in_weight, weights[k : k + 1], biases[k : k + 1], (reverse,))
        torch.testing.assert_close(y[:, 0], expected_of(*inputs)[:, k])


def test_gradients():
    inputs = make(5, 2, torch.float64)
    for t in inputs:
        t.requires_grad_()
    assert torch.autograd.gradcheck(lambda *inputs: project_conv_silu(*inputs, REVERSE), inputs)


def test_autocast():
    inputs = make(5)
    with torch.autocast('cpu', torch.bfloat16):
        kept = project_conv_silu(*inputs, REVERSE)
        with torch.no_grad():
            inferred = project_conv_silu(*inputs, REVERSE)
    assert kept.dtype == inferred.dtype == torch.bfloat16
    torch.testing.assert_close(inferred, kept, atol=0.05, rtol=0.05)
