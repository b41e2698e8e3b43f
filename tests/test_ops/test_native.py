"""Tests the native kernels against the sequential recurrence in float64, for every instruction set of this machine."""

import os
import platform
import subprocess
import sys
from functools import cache

import pytest
import torch

from mmvmamba.ops import native
from mmvmamba.ops.conv import native as native_conv
from mmvmamba.ops.scan import native as native_scan
from mmvmamba.ops.scan import reference
from mmvmamba.ops.scan.scan_inputs import ScanInputs

from .cases import scan_inputs

pytestmark = pytest.mark.skipif(native.unavailable_reason() is not None, reason=str(native.unavailable_reason()))

ROW, COLUMN, ROW_REVERSED, COLUMN_REVERSED = range(4)
CROSS = (ROW, COLUMN, ROW_REVERSED, COLUMN_REVERSED)
NAMES = ('x', 'dt', 'A', 'B', 'C', 'D', 'dt_bias', 'dt_weight')


@pytest.fixture(params=['baseline', 'avx2', 'avx512'])
def isa(request, monkeypatch):
    monkeypatch.setenv('MMVMAMBA_ISA', request.param)
    if not native.info().startswith(request.param):
        pytest.skip(f'this processor or build has no {request.param} kernels')


def case(b, H, W, d, n, traversals, softplus=True, edit=None, **options):
    """Returns float32 inputs in the order of the operator, the traversals and the softplus flag."""
    named = scan_inputs(b, H, W, d, n, len(traversals), dtype=torch.float32, **options)
    if edit:
        edit(named)
    return tuple(named[name] for name in NAMES), list(traversals), softplus


def positive_dt(named):
    named['dt'] = named['dt'].abs() * 0.3


def saturated(named):
    """Inputs with z > 20, where softplus(z) = z, next to very small steps."""
    named['dt'] = named['dt'] * 30


def fast_decay(named):
    """A of about -16 with large and ordinary steps, so that decays underflow."""
    named['A'] = -16 - named['A'].abs()
    named['dt_bias'] = named['dt_bias'] + 4


def strided(named):
    """dt, B and C are views of one projection, x is a transposed view; the test makes grad_y strided like x."""
    K = named['dt'].shape[1]
    joint = torch.cat([named['dt'], named['B'], named['C']], -1).permute(0, 2, 3, 1, 4).contiguous()
    joint = joint.permute(0, 3, 1, 2, 4)
    sizes = [named[name].shape[-1] for name in ('dt', 'B', 'C')]
    named['dt'], named['B'], named['C'] = joint.split(sizes, -1)
    named['x'] = named['x'].transpose(1, 2).contiguous().transpose(1, 2)
    assert joint.shape[1] == K and not named['B'].is_contiguous() and not named['x'].is_contiguous()


def expanded(named):
    """Broadcast maps, and channels that are not adjacent in memory."""
    named['B'] = named['B'][:, :1].expand_as(named['B'])
    named['dt'] = named['dt'].mT.contiguous().mT
    named['x'] = named['x'][:, :1].expand_as(named['x'])


CASES = {
    'cross': dict(b=2, H=5, W=7, d=17, n=1, traversals=CROSS),
    'low rank': dict(b=1, H=11, W=6, d=96, n=1, traversals=CROSS, rank=6),
    'high rank': dict(b=1, H=7, W=7, d=33, n=1, traversals=CROSS, rank=19),
    'odd map': dict(b=1, H=27, W=29, d=3, n=2, traversals=CROSS),
    'one channel, batch of 3': dict(b=3, H=4, W=9, d=1, n=8, traversals=(COLUMN_REVERSED,)),
    'many states': dict(b=2, H=6, W=5, d=20, n=16, traversals=(ROW, COLUMN), rank=5),
    'twenty states': dict(b=1, H=5, W=8, d=33, n=20, traversals=(ROW, ROW, COLUMN_REVERSED, COLUMN_REVERSED)),
    'row vector, maps per traversal': dict(
        b=2, H=1, W=300, d=24, n=16, traversals=(ROW, ROW_REVERSED), rank=12, per_traversal=True
    ),
    'column vector': dict(b=1, H=150, W=1, d=40, n=1, traversals=(COLUMN, COLUMN_REVERSED, ROW), per_traversal=True),
    'batch 1, long': dict(b=1, H=1, W=1500, d=16, n=1, traversals=(ROW, ROW_REVERSED)),
    'batch 1, long, many states': dict(b=1, H=1100, W=1, d=5, n=8, traversals=(COLUMN, ROW_REVERSED)),
    'long columns': dict(b=1, H=280, W=6, d=8, n=1, traversals=(COLUMN, COLUMN_REVERSED)),
    'wide blocks': dict(b=16, H=3, W=5, d=70, n=1, traversals=CROSS, rank=4),
    'no D': dict(b=1, H=6, W=7, d=18, n=1, traversals=CROSS, D=False),
    'no bias': dict(b=1, H=6, W=7, d=18, n=4, traversals=CROSS, bias=False),
    'no softplus': dict(b=1, H=6, W=7, d=18, n=1, traversals=CROSS, bias=False, softplus=False, edit=positive_dt),
    'saturated': dict(b=1, H=6, W=7, d=18, n=2, traversals=CROSS, edit=saturated),
    'fast decay': dict(b=1, H=6, W=20, d=18, n=2, traversals=CROSS, edit=fast_decay),
    'strided': dict(b=2, H=6, W=5, d=32, n=2, traversals=CROSS, edit=strided),
    'strided, low rank': dict(b=2, H=6, W=5, d=32, n=1, traversals=CROSS, rank=3, edit=strided),
    'expanded': dict(b=2, H=6, W=5, d=32, n=2, traversals=CROSS, edit=expanded),
}


def projection_of(y):
    """Returns a gradient for y with the strides of a transposed map."""
    return torch.linspace(0, 20, y.numel()).cos().view(y.shape).transpose(1, 2).contiguous().transpose(1, 2)


def run_reference(inputs, traversals, softplus, dtype):
    inputs = [t if t is None else t.detach().to(dtype).requires_grad_() for t in inputs]
    y = reference.selective_scan_2d(ScanInputs(*inputs, traversals, softplus))
    grads = iter(torch.autograd.grad((y * projection_of(y).to(dtype)).sum(), [t for t in inputs if t is not None]))
    return y.detach(), [t if t is None else next(grads) for t in inputs]


def run_native(inputs, traversals, softplus, out_dtype=torch.float32):
    inputs = ScanInputs(*inputs, traversals, softplus)
    y = native_scan.selective_scan_2d(inputs, out_dtype)
    return y, native_scan.selective_scan_2d_backward(projection_of(y), inputs)


@cache
def references(name):
    arguments = case(**CASES[name])
    return arguments, run_reference(*arguments, torch.float64), run_reference(*arguments, torch.float32)


def assert_close(name, actual, exact, sequential):
    """The norm of the error is at most 3 times that of the sequential float32 recurrence, plus 2 roundings."""
    assert actual.shape == exact.shape and actual.dtype == torch.float32 and actual.is_contiguous(), name
    error, allowed = (actual - exact).norm().item(), 3 * (sequential - exact).norm().item()
    allowed += 2 * torch.finfo(torch.float32).eps * exact.norm().item()
    assert error <= allowed, f'{name}: error {error:.2e}, allowed {allowed:.2e}'


@pytest.mark.parametrize('name', CASES)
def test_kernels_match_the_reference(name, isa):
    arguments, (y, grads), (y32, grads32) = references(name)
    actual, actual_grads = run_native(*arguments)
    assert_close('y', actual, y, y32)
    for of, given, grad, exact, sequential in zip(NAMES, arguments[0], actual_grads, grads, grads32):
        assert (grad is None) == (given is None), of
        if grad is not None:
            assert_close(of, grad, exact, sequential)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@pytest.mark.parametrize('rank', [None, 5])
def test_16_bit_maps(dtype, rank, isa):
    inputs, traversals, softplus = case(2, 6, 5, 19, 2, CROSS, rank=rank)
    inputs = [t.to(dtype) if name in ('x', 'dt', 'B', 'C') else t for name, t in zip(NAMES, inputs)]
    inputs[0][0, 0, 0, :4] = torch.tensor([0.0, 6e-8, -3e-6, 6e4]).to(dtype)  # subnormal and largest values of float16
    y, grads = run_reference(inputs, traversals, softplus, torch.float64)
    for out_dtype in (torch.float32, dtype):
        eps = torch.finfo(out_dtype).eps
        actual, actual_grads = run_native(inputs, traversals, softplus, out_dtype)
        assert actual.dtype == out_dtype
        finite = actual.isfinite()
        assert ((actual - y)[finite].abs() <= eps * y[finite].abs() + 4e-7 * y.abs().max()).all()
    for given, grad, exact in zip(inputs, actual_grads, grads):
        if given is not None:
            assert grad.dtype == given.dtype and grad.shape == given.shape
            # the gradient of y is also rounded to 16 bits
            assert (grad - exact).norm() <= 2 * torch.finfo(dtype).eps * exact.norm()


def test_16_bit_maps_equal_their_float32_values(isa):
    """Conversion happens on load and is exact for every bit pattern."""
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)
    for dtype in (torch.bfloat16, torch.float16):
        x = bits.view(dtype).view(1, 32, 32, 64)
        (_, dt, A, B, C, *rest), traversals, _ = case(1, 32, 32, 64, 1, (ROW,), D=False, bias=False, edit=positive_dt)
        inputs = (dt * 0 + 1, A * 1e6, B * 0 + 1, C * 0 + 1, *rest, traversals, False)
        y, expected = (native_scan.selective_scan_2d(ScanInputs(t, *inputs), torch.float32) for t in (x, x.float()))
        torch.testing.assert_close(y, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize('name', ['cross', 'low rank', 'batch 1, long', 'batch 1, long, many states', 'wide blocks'])
def test_results_are_bit_equal_between_runs_and_thread_counts(name, isa, threads):
    arguments = case(**CASES[name])
    results = []
    for count in (1, 1, 2, 5):
        threads(count)
        y, grads = run_native(*arguments)
        results.append([y, *(grad for grad in grads if grad is not None)])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other))


@pytest.mark.parametrize('softplus', [True, False])
@pytest.mark.parametrize('name', ['x', 'dt', 'A', 'B', 'C', 'D', 'dt_bias'])
@pytest.mark.parametrize('value', [float('nan'), float('inf'), -float('inf')])
def test_nan_and_infinity_spread_as_in_the_reference(name, value, softplus, isa):
    inputs, traversals, _ = case(1, 5, 6, 18, 2, CROSS, edit=None if softplus else positive_dt, bias=softplus)
    if name == 'A' and value > 0 or name == 'dt' and not softplus and value < 0:
        pytest.skip('a growing state')
    index = NAMES.index(name)
    if inputs[index] is None:
        pytest.skip('not among the inputs')
    inputs = [t if t is None else t.clone() for t in inputs]
    inputs[index].view(-1)[inputs[index].numel() // 2] = value
    expected = reference.selective_scan_2d(ScanInputs(*inputs, traversals, softplus))
    actual, grads = run_native(inputs, traversals, softplus)
    assert torch.equal(actual.isnan(), expected.isnan())
    assert torch.equal(actual.isinf(), expected.isinf())
    ordinary = expected.isfinite()
    torch.testing.assert_close(actual[ordinary], expected[ordinary], rtol=1e-4, atol=1e-4)
    assert all(grad is None or grad.shape == t.shape for grad, t in zip(grads, inputs))


@pytest.mark.parametrize('d', [1, 18])
@pytest.mark.parametrize('name', ['dt', 'B', 'C'])
def test_padding_channels_do_not_turn_infinity_into_nan(name, d, isa):
    """Channels are padded, and 0 times infinity is NaN, so sums over channels must exclude the padding."""
    inputs, _, _ = case(1, 1, 1, d, 2, (ROW, COLUMN), rank=3)
    leaves = [t.clone() for t in inputs]
    leaves[NAMES.index(name)][0, 0, 0, 0, 0] = float('inf')
    leaves = [t.requires_grad_() for t in leaves]
    y = reference.selective_scan_2d(ScanInputs(*leaves, [ROW, COLUMN], True))
    expected = torch.autograd.grad(y, leaves, torch.ones_like(y))
    inputs = ScanInputs(*(t.detach() for t in leaves), [ROW, COLUMN], True)
    grads = native_scan.selective_scan_2d_backward(torch.ones_like(inputs.x), inputs)
    for of, grad, exact in zip(NAMES, grads, expected):
        assert not (grad.isnan() & ~exact.isnan()).any(), of


def test_gradient_of_a_float64_output_is_accepted(isa):
    inputs, traversals, softplus = case(1, 3, 4, 5, 2, CROSS)
    inputs = ScanInputs(*inputs, traversals, softplus)
    y = native_scan.selective_scan_2d(inputs, torch.float64)
    grads = native_scan.selective_scan_2d_backward(projection_of(y.float()), inputs)
    double = native_scan.selective_scan_2d_backward(projection_of(y.float()).double(), inputs)
    assert y.dtype == torch.float64
    for grad, other in zip(grads, double):
        assert other is None or torch.equal(grad, other)


@pytest.mark.parametrize(
    'b, H, W, d, n', [(0, 3, 4, 5, 1), (2, 0, 4, 5, 1), (2, 3, 0, 5, 2), (1, 3, 4, 0, 1), (1, 3, 4, 5, 0)]
)
def test_empty_maps_give_zeros(b, H, W, d, n):
    inputs, traversals, softplus = case(b, H, W, d, n, CROSS)
    y, grads = run_native(inputs, traversals, softplus)
    assert y.shape == (b, H, W, d) and not y.any()
    assert all(grad is None or grad.shape == t.shape and not grad.any() for grad, t in zip(grads, inputs))


def test_info_names_the_instruction_set(isa):
    assert 'threads' in native.info()


@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='the C library is not glibc')
def test_heap_reuses_freed_memory():
    """Freed 16 MiB are reused by the next allocation; without the heap setting, it causes 11000 page faults."""
    code = """
import resource, torch
from mmvmamba.ops.native.heap import keep_freed_memory
keep_freed_memory()
def fill():
    tensors = [torch.ones(2**20) for _ in range(4)]
for _ in range(3):
    fill()  # until the heap has its size
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
fill()
fill()
fill()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    own = ('MALLOC_', 'GLIBC_', 'LD_PRELOAD')
    environment = {name: value for name, value in os.environ.items() if not name.startswith(own)}
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True, env=environment)
    assert int(done.stdout) < 4096  # pages of one of the three allocations


@pytest.mark.parametrize('d, n, rank', [(16, 1, 2), (37, 3, None), (96, 16, 6)])
def test_an_image_alone_and_in_a_batch_have_bit_equal_results(d, n, rank):
    inputs, codes, softplus = case(5, 9, 14, d, n, CROSS, rank=rank)
    together = native_scan.selective_scan_2d(ScanInputs(*inputs, codes, softplus), torch.float32)
    weight = torch.linspace(-1, 1, d * 9).view(1, d, 3, 3)
    convolved = native_conv.conv_silu(inputs[0], weight, None, [1])
    for i in range(5):
        maps = (inputs[0], inputs[1], None, inputs[3], inputs[4])
        one = tuple(t if of_all is None else of_all[i : i + 1] for t, of_all in zip(inputs, (*maps, *[None] * 3)))
        alone = native_scan.selective_scan_2d(ScanInputs(*one, codes, softplus), torch.float32)
        assert torch.equal(alone, together[i : i + 1])
        assert torch.equal(native_conv.conv_silu(one[0], weight, None, [1]), convolved[i : i + 1])
