"""Tests the CPU fast path of linear layers and the projected causal convolution, chunked or not, against PyTorch."""

import pytest
import torch
import torch.nn.functional as F
from torch.profiler import ProfilerActivity, profile

from mmvmamba.memory import Deferred, as_tensor, causal_conv_silu, cpu_fast_path, defer, use_cpu_fast_path
from mmvmamba.memory.cpu_fast_path import fast_linear, fast_linear_per_map
from mmvmamba.memory.linear_layers import linear_from_weights

REVERSE = (False, True)


def project_conv_silu(x, in_weight, weights, biases, reverse):
    """Returns the causal convolutions of a deferred projection, shape (B, K, L, E)."""
    maps = as_tensor(causal_conv_silu(defer(fast_linear, x, parameters=(in_weight,)), weights, biases, reverse))
    return maps if len(reverse) == 1 else maps.squeeze(2)


def expected_of(x, in_weight, weights, biases):
    """Reference by definition: the reversed branch is the forward branch on the flipped sequence."""
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
def test_both_directions_match_the_definition(length, dtype, monkeypatch):
    monkeypatch.setattr(cpu_fast_path, 'CHUNK_TOKENS', 4)
    inputs = make(length, 6, dtype)
    tolerance = dict(atol=0.1, rtol=0.05) if dtype == torch.bfloat16 else {}
    torch.testing.assert_close(project_conv_silu(*inputs, REVERSE), expected_of(*inputs), **tolerance)
    with torch.no_grad():
        torch.testing.assert_close(project_conv_silu(*inputs, REVERSE), expected_of(*inputs), **tolerance)


def test_one_direction_matches_the_definition():
    x, in_weight, weights, biases = inputs = make(5)
    for k, reverse in enumerate(REVERSE):
        y = project_conv_silu(x, in_weight, weights[k : k + 1], biases[k : k + 1], (reverse,))
        torch.testing.assert_close(y[:, 0], expected_of(*inputs)[:, k])


def test_gradients_pass_gradcheck():
    inputs = make(5, 2, torch.float64)
    for t in inputs:
        t.requires_grad_()
    assert torch.autograd.gradcheck(lambda *inputs: project_conv_silu(*inputs, REVERSE), inputs)


def test_inference_matches_training_under_autocast():
    inputs = make(5)
    with torch.autocast('cpu', torch.bfloat16):
        kept = project_conv_silu(*inputs, REVERSE)
        with torch.no_grad():
            inferred = project_conv_silu(*inputs, REVERSE)
    assert kept.dtype == inferred.dtype == torch.bfloat16
    torch.testing.assert_close(inferred, kept, atol=0.05, rtol=0.05)


@pytest.fixture
def always_worth(monkeypatch):
    monkeypatch.setattr(cpu_fast_path, 'ONEDNN_MIN_MACS', 0)


def has_run(function):
    """Returns the names of the operators that the function runs."""
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        function()
    return {event.key for event in recorded.key_averages()}


ONEDNN = 'mkldnn::_linear_pointwise'
needs_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason='PyTorch without oneDNN')


@pytest.mark.parametrize('gelu', [False, True])
@pytest.mark.parametrize('has_bias', [False, True])
@pytest.mark.parametrize('size', [(7,), (2, 3, 5), (1, 0)])
def test_fast_linear_matches_float64(size, has_bias, gelu, always_worth):
    torch.manual_seed(0)
    x, weight, bias = torch.randn(*size, 6), torch.randn(4, 6), torch.randn(4) if has_bias else None
    wide = [t if t is None else t.double() for t in (x, weight, bias)]
    expected = F.gelu(F.linear(*wide)) if gelu else F.linear(*wide)
    with torch.no_grad():
        for strided in (weight, weight.T.contiguous().T, torch.randn(4, 9)[:, :6].copy_(weight)):
            torch.testing.assert_close(fast_linear(x, strided, bias, gelu), expected.float(), atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(fast_linear(*wide, gelu), expected)


def test_fast_linear_per_map_matches_float64(always_worth):
    torch.manual_seed(0)
    x, weights = torch.randn(2, 3, 5, 6), torch.randn(3, 4, 6)
    expected = torch.stack([x[:, k].double() @ weights[k].double().T for k in range(3)], 1)
    with torch.no_grad():
        torch.testing.assert_close(fast_linear_per_map(x, weights), expected.float(), atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(
            fast_linear_per_map(x, weights.mT.contiguous().mT), expected.float(), atol=1e-6, rtol=1e-5
        )
    torch.testing.assert_close(fast_linear_per_map(x.double(), weights.double()), expected)


@needs_onednn
def test_onednn_is_used_only_above_the_size_threshold(monkeypatch):
    x, weight, maps, weights = torch.randn(5, 6), torch.randn(4, 6), torch.randn(1, 2, 5, 6), torch.randn(2, 4, 6)
    with torch.no_grad():
        assert ONEDNN not in has_run(lambda: (fast_linear(x, weight), fast_linear_per_map(maps, weights)))
        assert ONEDNN in has_run(lambda: fast_linear(x, weight, gelu=True))
        monkeypatch.setattr(cpu_fast_path, 'ONEDNN_MIN_MACS', 5 * 6 * 4)
        assert ONEDNN in has_run(lambda: fast_linear(x, weight))
        assert ONEDNN in has_run(lambda: fast_linear_per_map(maps, weights))
        assert ONEDNN not in has_run(lambda: fast_linear(x[:4], weight))
        with use_cpu_fast_path(False):
            assert ONEDNN not in has_run(lambda: (fast_linear(x, weight), fast_linear_per_map(maps, weights)))
        with torch.backends.mkldnn.flags(enabled=False):
            assert ONEDNN not in has_run(lambda: (fast_linear(x, weight), fast_linear_per_map(maps, weights)))
        with torch.autocast('cpu', torch.bfloat16):
            assert fast_linear(x, weight).dtype == fast_linear_per_map(maps, weights).dtype == torch.bfloat16
    assert ONEDNN not in has_run(lambda: fast_linear(x.requires_grad_(), weight))


@needs_onednn
def test_training_uses_onednn_in_both_passes(always_worth):
    torch.manual_seed(0)
    x, weight = torch.randn(2, 5, 6, requires_grad=True), torch.randn(4, 6, requires_grad=True)
    expected = torch.autograd.grad(F.linear(x.sin(), weight).square().sum(), (x, weight))

    def gradients():
        return torch.autograd.grad(
            linear_from_weights(Deferred(torch.sin, (x,)), weight, None).square().sum(), (x, weight)
        )

    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        found = gradients()
    assert {event.key: event.count for event in recorded.key_averages()}[ONEDNN] == 2
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
