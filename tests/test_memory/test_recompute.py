"""Tests the gradients of recomputing functions, and how much memory a block saves for the backward pass."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from mmvmamba.memory import Deferred, cpu_fast_path, project_and_scan
from mmvmamba.memory.linear_layers import linear_from_weights
from mmvmamba.ops import CROSS, conv_silu_2d, use_backend

BENCHMARKS = Path(__file__).parents[2] / 'benchmarks'


def gated(x, z, weight):
    return F.layer_norm(x, weight.shape, weight) * F.silu(z)


def make_linear(bias=True):
    torch.manual_seed(0)
    tensors = dict(x=(2, 5, 3), z=(2, 5, 3), norm=(3,), weight=(4, 3)) | (dict(bias=(4,)) if bias else {})
    return [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in tensors.values()]


def run_linear(x, z, norm, weight, bias=None):
    return linear_from_weights(Deferred(gated, (x, z), (norm,)), weight, bias)


def make_scan():
    """Inputs for a 2 x 3 map with 2 channels, 2 states and rank 1."""
    torch.manual_seed(0)
    shapes = (1, 2, 3, 2), (2, 1, 3, 3), (2,), (4, 5, 2), (4, 2, 2), (4, 2), (4, 2), (4, 2, 1)
    return [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]


def run_scan(x, weight, bias, x_proj, A, D, dt_bias, dt_weight):
    x = Deferred(conv_silu_2d, (x,), (weight, bias))
    return project_and_scan(x, x_proj, -A.exp(), D, dt_bias, dt_weight, CROSS)


FUNCTIONS = {
    'linear': (run_linear, make_linear),
    'linear without bias': (run_linear, lambda: make_linear(bias=False)),
    'scan': (run_scan, make_scan),
}


@pytest.fixture(params=FUNCTIONS)
def function(request, monkeypatch):
    monkeypatch.setattr(cpu_fast_path, 'CHUNK_TOKENS', 4)  # ten positions: the last chunk is incomplete
    run, make = FUNCTIONS[request.param]
    return run, make()


def test_gradcheck(function):
    assert torch.autograd.gradcheck(*function)


def test_each_input_gets_its_gradient_alone(function):
    """Only the input that requires a gradient gets one."""
    run, inputs = function
    expected = torch.autograd.grad(run(*inputs).sin().sum(), inputs)
    for i in range(len(inputs)):
        alone = [other.detach() for other in inputs]
        alone[i].requires_grad_()
        run(*alone).sin().sum().backward()
        torch.testing.assert_close(alone[i].grad, expected[i], rtol=1e-9, atol=1e-12)
        assert all(other.grad is None for other in alone if other is not alone[i])


def test_second_derivative_exists_where_the_composition_has_one():
    assert torch.autograd.gradgradcheck(run_linear, make_linear())
    inputs = make_scan()
    total = sum(grad.sum() for grad in torch.autograd.grad(run_scan(*inputs).sum(), inputs, create_graph=True))
    with pytest.raises(RuntimeError, match='no second derivative'):
        total.backward()
    with use_backend('chunked'):
        assert torch.autograd.gradgradcheck(run_scan, make_scan())


def test_one_tensor_may_be_passed_twice():
    *_, norm, weight, bias = make_linear()
    x = torch.randn(2, 5, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: run_linear(x, x, norm, weight, bias), [x])
    assert torch.autograd.gradgradcheck(lambda x: run_linear(x, x, norm, weight, bias), [x])


def test_gradients_are_bit_equal_between_runs(function):
    run, inputs = function
    inputs = [t.detach().float().requires_grad_() for t in inputs]
    first, again = (torch.autograd.grad(run(*inputs).sin().sum(), inputs) for _ in range(2))
    assert all(map(torch.equal, first, again))


def test_function_transforms_match_autograd(function):
    run, inputs = function
    expected = torch.autograd.grad(run(*inputs).sin().sum(), inputs)
    grads = torch.func.grad(lambda *tensors: run(*tensors).sin().sum(), tuple(range(len(inputs))))(*inputs)
    for grad, of_autograd in zip(grads, expected):
        torch.testing.assert_close(grad, of_autograd, rtol=1e-9, atol=1e-12)


def test_backward_runs_outside_of_autocast_and_use_backend(function):
    """Recomputed values equal those of the forward pass, wherever the backward pass runs."""
    run, inputs = function
    inputs = [t.detach().float().requires_grad_() for t in inputs]
    with torch.autocast('cpu', torch.bfloat16), use_backend('native'):
        inside = torch.autograd.grad(run(*inputs).float().sin().sum(), inputs)
        value = run(*inputs).float().sin().sum()
    outside = torch.autograd.grad(value, inputs)
    assert all(map(torch.equal, inside, outside))


def test_empty_batch_has_zero_gradients(function):
    run, (x, *others) = function
    if run is run_linear:
        others[0] = others[0][:0]
    run(x[:0], *others).sum().backward()
    assert all((t.grad == 0).all() for t in (x, *others) if t.is_leaf)


@pytest.fixture(scope='module')
def script():
    sys.path.insert(0, str(BENCHMARKS))
    try:
        spec = importlib.util.spec_from_file_location('kept_for_backward', BENCHMARKS / 'kept_for_backward.py')
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        yield module
    finally:
        sys.path.remove(str(BENCHMARKS))


@pytest.mark.parametrize(
    'block, dtype, limit',
    [
        ('VSSBlock of VMamba-T', torch.float32, 8.5),
        ('VSSBlock of VMamba-T', torch.bfloat16, 5.3),
        ('VimBlock of Vim-Ti', torch.float32, 7),
        ('VimBlock of Vim-Ti', torch.bfloat16, 4),
    ],
)
def test_block_saves_at_most_the_stated_memory(script, block, dtype, limit):
    """In maps of C channels; the values are 17.4 and 20 if every layer saves its input."""
    kept = script.kept_by(script.BLOCKS[block], dtype)
    assert 2 < sum(one.maps for one in kept) < limit
