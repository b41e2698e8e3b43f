"""The causal convolution with SiLU: every path against PyTorch's 1-D convolution."""

import sys
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from mmvmamba.ops import causal_conv, cpu_fastpath
from mmvmamba.ops.cpu_fastpath import project_conv_silu

REVERSE = (False, True)


def expected_of(x, in_weight, weights, biases):
    """By definition: the reversed branch is the forward one on the flipped sequence."""
    maps, x = [], x @ in_weight.T
    for weight, bias, reverse in zip(weights, biases, REVERSE):
        natural = x.flip(1) if reverse else x
        y = F.conv1d(F.pad(natural.transpose(1, 2), (3, 0)), weight, bias, groups=len(weight)).transpose(1, 2)
        maps.append(F.silu(y.flip(1) if reverse else y))
    return torch.stack(maps, 1)


def make(length, channels=8, dtype=torch.float32):
    torch.manual_seed(0)
    weights, biases = torch.randn(2, channels, 1, 4, dtype=dtype), torch.randn(2, channels, dtype=dtype)
    x, in_weight = torch.randn(2, length, 3, dtype=dtype), torch.randn(channels, 3, dtype=dtype)
    return x, in_weight, list(weights), list(biases)


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
        y = project_conv_silu(x, in_weight, weights[k : k + 1], biases[k : k + 1], [reverse])
        torch.testing.assert_close(y[:, 0], expected_of(*inputs)[:, k])


def test_gradients():
    x, in_weight, weights, biases = make(5, 2, torch.float64)
    inputs = (x, in_weight, *weights, *biases)
    for t in inputs:
        t.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x, in_weight, *others: project_conv_silu(x, in_weight, others[:2], others[2:], REVERSE), inputs
    )


def test_autocast():
    inputs = make(5)
    with torch.autocast('cpu', torch.bfloat16):
        kept = project_conv_silu(*inputs, REVERSE)
        with torch.no_grad():
            inferred = project_conv_silu(*inputs, REVERSE)
    assert kept.dtype == inferred.dtype == torch.bfloat16
    torch.testing.assert_close(inferred, kept, atol=0.05, rtol=0.05)


def test_the_package_causal_conv1d(monkeypatch):
    """Its documented function, here in PyTorch: it takes (B, E, L), channels last with strides in multiples of 8."""

    def causal_conv1d_fn(x, weight, bias, activation):
        assert x.stride(1) == 1 and x.stride(2) % 8 == x.stride(0) % 8 == 0
        assert weight.shape == (8, 4) and bias.shape == (8,) and activation == 'silu'
        return F.silu(F.conv1d(x, weight.unsqueeze(1), bias, padding=3, groups=8)[..., : x.shape[2]])

    monkeypatch.setitem(sys.modules, 'causal_conv1d', SimpleNamespace(causal_conv1d_fn=causal_conv1d_fn))
    causal_conv._import_kernel.cache_clear()
    kernel = causal_conv._import_kernel()
    causal_conv._import_kernel.cache_clear()
    assert kernel is causal_conv1d_fn
    monkeypatch.setattr(causal_conv, '_cuda_kernel', lambda x: kernel)
    for length in (1, 2, 9):
        inputs = make(length)
        torch.testing.assert_close(project_conv_silu(*inputs, REVERSE), expected_of(*inputs))


def test_a_cpu_tensor_never_goes_to_the_package():
    assert causal_conv._cuda_kernel(torch.zeros(1, 4, 8)) is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
@pytest.mark.parametrize('autocast', [False, True])
@pytest.mark.parametrize('length', [1, 2, 9])
def test_the_package_on_a_gpu(length, autocast):
    pytest.importorskip('causal_conv1d')
    x, in_weight, *parameters = inputs = make(length)
    flat = [t.requires_grad_() for group in parameters for t in group]
    expected = expected_of(*inputs)
    weights, biases = ([t.cuda() for t in group] for group in parameters)
    with torch.autocast('cuda', torch.float16, enabled=autocast):
        out = project_conv_silu(x.cuda(), in_weight.cuda(), weights, biases, REVERSE).float().cpu()
    tolerance = dict(atol=0.05, rtol=0.05) if autocast else dict(atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(out, expected, **tolerance)
    for grads in zip(torch.autograd.grad(out.sum(), flat), torch.autograd.grad(expected.sum(), flat)):
        torch.testing.assert_close(*grads, **tolerance)
