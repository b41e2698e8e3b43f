"""Tests every implementation of the depthwise convolution with SiLU against PyTorch in float64.

Triton's interpreter must be selected before Triton is imported, so `test_triton_in_the_interpreter` runs its cases in a
separate process.
"""

import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from mmvmamba.ops import conv_silu_1d, conv_silu_2d, native, use_backend
from mmvmamba.ops.conv.backends import CONV

# batch, height, width, channels, kernel rows and columns, left padding
CASES = {
    '3x3': (2, 5, 7, 17, 3, 3, [1]),
    '3x3, several tiles and blocks': (1, 70, 33, 70, 3, 3, [1]),
    '3x3, two blocks of channels': (1, 4, 9, 70, 3, 3, [1]),
    '3x3, one position': (3, 1, 1, 16, 3, 3, [1]),
    '3x3, one row': (1, 1, 1100, 5, 3, 3, [1]),
    '3x3, one column': (1, 40, 1, 32, 3, 3, [1]),
    'causal': (2, 1, 9, 20, 1, 4, [3]),
    'causal, both ways': (1, 1, 1500, 33, 1, 4, [3, 0]),
    'causal, shorter than the taps': (2, 1, 2, 3, 1, 4, [0, 3]),
    'other kernels': (1, 6, 8, 19, 5, 3, [1, 2, 0]),
}
TRITON = CONV.backends['triton']
INTERPRETED = os.environ.get('TRITON_INTERPRET') == '1'
TOO_SLOW = {name for name, (batch, height, width, *_) in CASES.items() if height * width > 1000}  # in the interpreter


@pytest.fixture(params=['baseline', 'avx2', 'avx512', 'triton'])
def kernels(request, monkeypatch):
    """An implementation of the operator; each instruction set is a variant of the native one."""
    if request.param == 'triton':
        if reason := TRITON.unavailable_reason():
            pytest.skip(reason)
        return TRITON
    monkeypatch.setenv('MMVMAMBA_ISA', request.param)
    if not native.info().startswith(request.param):
        pytest.skip(f'this processor or build has no {request.param} kernels')
    return CONV.backends['native']


def make(batch, height, width, channels, rows, columns, left, dtype=torch.float32):
    """Returns grad, x, weight, bias, left; x and grad are the second halves of wider maps."""
    random = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(shape, generator=random)

    grad = normal(batch, len(left), height, width, 2 * channels).to(dtype)[..., channels:]
    x = (2 * normal(batch, height, width, 2 * channels)).to(dtype)[..., channels:]
    return grad, x, normal(len(left), channels, rows, columns) / 2, normal(len(left), channels), left


def run(implementation, grad, x, weight, bias, left):
    """Returns the result and the gradients of x, weight and bias."""
    device = 'cuda' if implementation is TRITON and torch.cuda.is_available() else 'cpu'
    grad, *inputs = (t if t is None else t.to(device) for t in (grad, x, weight, bias))
    found = (implementation.forward(*inputs, left), *implementation.backward(grad, *inputs, left))
    return [t if t is None else t.cpu() for t in found]


def exact(grad, x, weight, bias, left):
    double = (t if t is None else t.double() for t in (grad, x, weight, bias))
    return run(CONV.plain, *double, left)


def distance(found, wanted):
    return ((found - wanted).norm() / wanted.norm()).item()


@pytest.mark.parametrize('name', CASES)
def test_kernels_match_float64(name, kernels):
    """The error is at most twice that of PyTorch in float32, plus one rounding."""
    if INTERPRETED and name in TOO_SLOW:
        pytest.skip('minutes in the interpreter')
    arguments = make(*CASES[name])
    for found, own, wanted in zip(run(kernels, *arguments), run(CONV.plain, *arguments), exact(*arguments)):
        assert found.shape == wanted.shape and found.dtype == torch.float32 and found.is_contiguous()
        assert distance(found, wanted) <= 2 * distance(own, wanted) + 6e-8


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_16_bit_results_are_rounded_once(dtype, kernels):
    """Only the results are rounded, to nearest, so the error is at most eps / 2. Parameters keep their dtype."""
    for name in ('3x3', 'causal'):
        arguments = make(*CASES[name], dtype)
        eps = torch.finfo(dtype).eps * (2 if INTERPRETED else 1)  # Triton's interpreter rounds bfloat16 towards zero
        for found, wanted in zip(run(kernels, *arguments), exact(*arguments)):
            is_map = found.dtype == dtype
            assert is_map or found.dtype == torch.float32
            allowed = (eps / 2 if is_map else 0) * wanted.abs() + 2e-6 * wanted.abs().max()
            assert ((found.double() - wanted).abs() <= allowed).all()


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_rounding_to_16_bits_matches_pytorch(dtype, kernels):
    """With a one-tap kernel and a nearly linear SiLU, x maps to x for every finite, sufficiently large value."""
    if INTERPRETED:
        pytest.skip("Triton's interpreter rounds bfloat16 towards zero")
    x = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(dtype).view(1, 64, 64, 16)
    x = torch.where(x.isfinite() & (x > 30), x, 30)
    grad = torch.linspace(-1, 1, x.numel()).view(x.shape).mul(torch.logspace(-9, 5, 16)).unsqueeze(1)
    y, dx, *_ = run(kernels, grad, x, torch.ones(1, 16, 1, 1), None, [0])
    torch.testing.assert_close(y[:, 0], x, rtol=0, atol=0)
    torch.testing.assert_close(dx, grad[:, 0].to(dtype), rtol=0, atol=0)  # the derivative of SiLU is 1 there


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_nan_and_infinity_spread_only_within_the_kernel_window(value, kernels):
    grad, x, weight, bias, left = make(*CASES['3x3'])
    x[0, 0, 3, 16] = value
    found, wanted = (run(of, grad, x, weight, bias, left) for of in (kernels, CONV.plain))
    for a, b in zip(found, wanted):
        assert torch.equal(a.isnan(), b.isnan()) and torch.equal(a.isinf(), b.isinf())


@pytest.mark.parametrize('name', ['3x3, several tiles and blocks', 'causal, both ways'])
def test_results_are_bit_equal_between_runs_and_thread_counts(name, kernels, threads):
    if INTERPRETED:
        pytest.skip('minutes in the interpreter')
    arguments, results = make(*CASES[name]), []
    for count in (1, 1, 2, 5):
        threads(count)
        results.append(run(kernels, *arguments))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other))


def maps(dtype=torch.float64, channels=6):
    random = torch.Generator().manual_seed(0)
    shapes = ((2, 5, 4, channels), (channels, 1, 3, 3), (channels,))
    return [torch.randn(shape, generator=random, dtype=dtype).requires_grad_() for shape in shapes]


def sequences(dtype=torch.float64, channels=6):
    random = torch.Generator().manual_seed(0)
    shapes = ((2, 7, channels), (2, channels, 4), (2, channels))
    return [torch.randn(shape, generator=random, dtype=dtype).requires_grad_() for shape in shapes]


def by_conv2d(x, weight, bias):
    return F.silu(F.conv2d(x.permute(0, 3, 1, 2), weight, bias, padding=1, groups=len(weight)).permute(0, 2, 3, 1))


def by_conv1d(x, weights, biases, reverse):
    """By definition, the reversed convolution is the causal one on the flipped sequence."""
    y = []
    for k, ahead in enumerate(reverse):
        u = F.pad((x.flip(1) if ahead else x).mT, (weights.shape[-1] - 1, 0))
        u = F.silu(F.conv1d(u, weights[k].unsqueeze(1), None if biases is None else biases[k], groups=x.shape[-1])).mT
        y.append(u.flip(1) if ahead else u)
    return torch.stack(y, 1)


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32])
def test_public_functions_and_gradients_match_pytorch(dtype):
    x, weight, bias = maps(dtype)
    u, weights, biases = sequences(dtype)
    calls = [(conv_silu_2d, by_conv2d, (x, weight, bias)), (conv_silu_2d, by_conv2d, (x, weight, None))]
    for reverse in ((False, True), (True, True)):
        calls += [(conv_silu_1d, by_conv1d, (u, weights, biases, reverse))]
    calls += [(conv_silu_1d, by_conv1d, (u, weights[:1], None, (False,)))]
    for function, by_definition, arguments in calls:
        tensors = [t for t in arguments if isinstance(t, torch.Tensor)]
        found, wanted = function(*arguments), by_definition(*arguments)
        torch.testing.assert_close(found, wanted)
        grad = torch.linspace(-1, 1, found.numel(), dtype=dtype).view(found.shape)
        grads = torch.autograd.grad(found, tensors, grad)
        torch.testing.assert_close(grads, torch.autograd.grad(wanted, tensors, grad))


def test_gradcheck():
    assert torch.autograd.gradcheck(conv_silu_2d, maps(channels=2))
    assert torch.autograd.gradcheck(lambda *t: conv_silu_1d(*t, (False, True)), sequences(channels=2))
    with use_backend('chunked'):
        assert torch.autograd.gradgradcheck(conv_silu_2d, maps(channels=2))


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.bfloat16])
def test_opcheck(dtype):
    grad, *arguments, left = make(*CASES['causal'], dtype)
    arguments = [t.to(dtype).requires_grad_() for t in arguments]
    torch.library.opcheck(torch.ops.mmvmamba.conv_silu, (*arguments, left))
    x, weight, _ = arguments
    torch.library.opcheck(torch.ops.mmvmamba.conv_silu, (x, weight, None, left))
    detached = [t.detach() for t in (grad, x, weight)]
    torch.library.opcheck(torch.ops.mmvmamba.conv_silu_backward, (*detached, None, left))


def test_autocast_casts_only_the_map():
    x, weight, bias = maps(torch.float32)
    with torch.autocast('cpu', torch.bfloat16):
        y = conv_silu_2d(x, weight, bias)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y, by_conv2d(x.bfloat16().double(), weight.double(), bias.double()).bfloat16())
    y.float().sum().backward()
    assert [t.grad.dtype for t in (x, weight, bias)] == [torch.float32] * 3


def test_compile_and_export_with_any_size():
    x, weight, bias = (t.detach() for t in maps(torch.float32))
    compiled = torch.compile(conv_silu_2d, fullgraph=True, dynamic=True)
    for size in ((2, 5, 4, 6), (1, 9, 3, 6)):
        wide = torch.randn(size)
        torch.testing.assert_close(compiled(wide, weight, bias), by_conv2d(wide, weight, bias))

    class Mixer(torch.nn.Module):
        def forward(self, x, weight, bias):
            return conv_silu_2d(x, weight, bias)

    sizes = {axis: torch.export.Dim(name) for axis, name in enumerate(('batch', 'height', 'width'))}
    for backend in ('auto', 'chunked'):
        with use_backend(backend):
            program = torch.export.export(Mixer(), (x, weight, bias), dynamic_shapes=(sizes, None, None))
        assert ('mmvmamba.conv_silu' in str(program.graph)) == (backend == 'auto')
        torch.testing.assert_close(program.module()(wide[..., :6], weight, bias), by_conv2d(wide, weight, bias))


def test_function_transforms():
    x, weight, bias = (t.detach() for t in maps())
    grad = torch.func.grad(lambda x: conv_silu_2d(x, weight, bias).sum())(x)
    torch.testing.assert_close(grad, torch.func.grad(lambda x: by_conv2d(x, weight, bias).sum())(x))
    each = torch.vmap(lambda x: conv_silu_2d(x.unsqueeze(0), weight, bias)[0])(x)
    torch.testing.assert_close(each, by_conv2d(x, weight, bias))


def test_backward_saves_only_the_inputs():
    kept = []
    x, weight, bias = maps(torch.float32)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        conv_silu_2d(x, weight, bias)
    assert {t.untyped_storage().data_ptr() for t in kept} <= {t.untyped_storage().data_ptr() for t in (x, weight, bias)}


@pytest.mark.skipif(torch.__version__ < '2.5', reason='the FlopCounterMode of PyTorch 2.4 leaves out own operators')
def test_flops_match_a_convolution():
    x, weight, bias = maps(torch.float32)
    with FlopCounterMode(display=False) as own:
        conv_silu_2d(x, weight, bias).sum().backward()
    with FlopCounterMode(display=False) as plain:
        by_conv2d(x, weight, bias)
    assert own.get_total_flops() == 4 * plain.get_total_flops()  # forward, recomputation, and two gradients


def test_empty_batch_is_supported():
    x, weight, bias = maps(torch.float32)
    x = x.detach()[:0].requires_grad_()
    y = conv_silu_2d(x, weight, bias)
    y.sum().backward()
    assert y.shape == x.shape == x.grad.shape and not weight.grad.any() and not bias.grad.any()


@pytest.mark.parametrize(
    'arguments, complaint',
    [
        (lambda x, w, b: (x.half(), w, b), 'weight is float32, x float16: convert one of them, or run under'),
        (lambda x, w, b: (x, w, b.double()), 'bias is float64, x float32'),
        (lambda x, w, b: (x[0], w, b), r'x must be \(B, H, W, E\)'),
        (lambda x, w, b: (x, w[..., 1:], b), r'weight is \(6, 1, 3, 2\), but x .* needs .*\(6, 1, 3, 3\)'),
        (lambda x, w, b: (x, w, b[1:]), r'bias is \(5,\)'),
        (lambda x, w, b: (x[:, :0], w, b), 'at least one position'),
        (lambda x, w, b: (x.to(torch.int32), w, b), 'x is torch.int32'),
        (lambda x, w, b: (x, w.to('meta'), b), 'weight is on meta'),
    ],
)
def test_invalid_arguments_raise_a_one_sentence_error(arguments, complaint):
    with pytest.raises(ValueError, match=complaint):
        conv_silu_2d(*arguments(*(t.detach() for t in maps(torch.float32))))


def test_invalid_sequences_are_rejected():
    x, weights, biases = (t.detach() for t in sequences(torch.float32))
    with pytest.raises(ValueError, match=r'weights is \(2, 6, 4\)'):
        conv_silu_1d(x, weights, biases, (False,))
    with pytest.raises(ValueError, match=r'biases is \(1, 6\)'):
        conv_silu_1d(x, weights, biases[:1], (False, True))


@pytest.mark.skipif(INTERPRETED, reason='the cases run in this process')
@pytest.mark.slow
def test_triton_in_the_interpreter():
    pytest.importorskip('triton', '3.3')
    options = ['-q', '-p', 'no:cacheprovider', '-p', 'no:xdist', '-o', 'addopts=', '-k', 'triton']
    command = [sys.executable, '-m', 'pytest', *options, __file__]
    environment = {k: v for k, v in os.environ.items() if not k.startswith('PYTEST_')}
    environment.update(TRITON_INTERPRET='1', OMP_NUM_THREADS='1')
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
