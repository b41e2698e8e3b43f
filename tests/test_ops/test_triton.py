"""Tests the Triton kernels against the float64 reference, on a CUDA device or in Triton's interpreter.

The interpreter must be selected before Triton is imported, so `test_in_the_interpreter` runs this file again in a
separate process, which collects the cases of `TestKernels`.
"""

import os
import re
import subprocess
import sys

import pytest
import torch

from mmvmamba.ops import selective_scan_2d, self_check, triton_kernels
from mmvmamba.ops.scan import reference
from mmvmamba.ops.scan.backends import SCAN
from mmvmamba.ops.scan.scan_inputs import ScanInputs
from mmvmamba.ops.scan.signature import ScanSignature

pytest.importorskip('triton', '3.3')

INTERPRETED = os.environ.get('TRITON_INTERPRET') == '1'
DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
TRITON = SCAN.backends['triton']
NAMES = ('x', 'dt', 'A', 'B', 'C', 'D', 'dt_bias', 'dt_weight')
ROW, COLUMN, ROW_REVERSED, COLUMN_REVERSED = range(4)
CROSS = [ROW, COLUMN, ROW_REVERSED, COLUMN_REVERSED]


@pytest.mark.skipif(INTERPRETED or DEVICE == 'cuda', reason='the cases run in this process')
@pytest.mark.slow
def test_in_the_interpreter():
    options = ['-q', '-p', 'no:cacheprovider', '-p', 'no:xdist', '-o', 'addopts=']
    command = [sys.executable, '-m', 'pytest', *options, __file__]
    environment = {k: v for k, v in os.environ.items() if not k.startswith('PYTEST_')}  # without xdist's variables
    environment.update(TRITON_INTERPRET='1', OMP_NUM_THREADS='1')
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


def test_import_does_not_need_triton():
    code = (
        "import sys; sys.modules['triton'] = None\n"
        'from mmvmamba.ops import triton_kernels; print(triton_kernels.unavailable_reason())'
    )
    run = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert 'not installed' in run.stdout


def test_old_triton_is_reported(monkeypatch):
    monkeypatch.setattr(sys.modules['triton'], '__version__', '3.2.0')
    assert '3.2.0' in triton_kernels.unavailable_reason()


@pytest.mark.skipif(INTERPRETED or DEVICE == 'cuda', reason='Triton can run here')
def test_missing_device_is_reported():
    assert 'CUDA' in triton_kernels.unavailable_reason()


def make_inputs(
    batch=1,
    size=(5, 7),
    channels=40,
    states=1,
    traversals=CROSS,
    shared=True,
    rank=3,
    dtype=torch.float32,
    optional=True,
    seed=0,
):
    """Returns a dict of the eight tensors. The last channel block is incomplete; B, C, dt share one projection."""
    random = torch.Generator().manual_seed(seed)
    K = len(traversals)

    def normal(*shape):
        return torch.randn(*shape, generator=random)

    projection = normal(batch, *size, K, (rank or channels) + 2 * states).permute(0, 3, 1, 2, 4)
    dt, B, C = projection.to(DEVICE, dtype).split((rank or channels, states, states), -1)
    x = normal(batch, *size, channels) if shared else normal(batch, K, *size, channels)
    inputs = dict(
        x=x.to(DEVICE, dtype),
        dt=dt,
        A=-4 * torch.rand(K, channels, states, generator=random),
        B=B,
        C=C,
        D=normal(K, channels) if optional else None,
        dt_bias=normal(K, channels) - 2 if optional else None,
        dt_weight=normal(K, channels, rank) / 2 if rank else None,
    )
    return {name: None if t is None else t.to(DEVICE) for name, t in inputs.items()}


def run_reference(inputs, grad_y, traversals, dt_softplus, dtype):
    """Returns y and the gradients, by autograd in the given precision."""
    leaves = {name: None if t is None else t.to(dtype).requires_grad_() for name, t in inputs.items()}
    y = reference.selective_scan_2d(ScanInputs(**leaves, codes=traversals, dt_softplus=dt_softplus))
    y.backward(grad_y.to(y.dtype))
    return dict(y=y.detach(), **{name: None if t is None else t.grad for name, t in leaves.items()})


def run_kernels(inputs, grad_y, traversals, dt_softplus=True, out_dtype=torch.float32):
    scan = ScanInputs(**inputs, codes=traversals, dt_softplus=dt_softplus)
    y = TRITON.forward(scan, out_dtype)
    grads = TRITON.backward(grad_y, scan)
    for tensor, grad in zip(inputs.values(), grads):
        assert (tensor is None) == (grad is None)
        assert tensor is None or (grad.shape, grad.dtype) == (tensor.shape, tensor.dtype)
    return dict(y=y, **dict(zip(NAMES, grads)))


def check(inputs, traversals=CROSS, dt_softplus=True):
    """The error of each result is at most 3 times that of the sequential float32 recurrence, plus one rounding."""
    grad_y = torch.randn(inputs['x'].shape[0], *inputs['x'].shape[-3:], generator=torch.Generator().manual_seed(1))
    grad_y = grad_y.to(DEVICE, inputs['x'].dtype)
    exact = run_reference(inputs, grad_y, traversals, dt_softplus, torch.float64)
    sequential = run_reference(inputs, grad_y, traversals, dt_softplus, torch.float32)
    results = run_kernels(inputs, grad_y, traversals, dt_softplus)
    for name, result in results.items():
        if result is None:
            continue
        rounding = 1e-7 if name == 'y' else torch.finfo(result.dtype).eps
        if inputs['dt_weight'] is not None:
            rounding = max(rounding, torch.finfo(inputs['dt'].dtype).eps)  # dtype of the dt projection
        error, allowed = ((r.double() - exact[name]).norm() for r in (result, sequential[name]))
        assert error <= 3 * allowed + rounding * exact[name].norm(), name


@pytest.fixture(params=['one_sweep', 'one_sweep_each', 'chunks'])
def schedule(request, monkeypatch):
    """How the work is divided, which depends on the number of multiprocessors."""
    from mmvmamba.ops.scan import triton_launch as launch

    multiprocessors = {'one_sweep': 0, 'one_sweep_each': 10**6, 'chunks': 10**6}[request.param]
    min_chunk = {'one_sweep': 16, 'one_sweep_each': 10**6, 'chunks': 4}[request.param]
    monkeypatch.setattr(launch, 'multiprocessors', lambda device: multiprocessors)
    monkeypatch.setattr(launch, 'MIN_CHUNK', min_chunk)


@pytest.fixture
def small_check(monkeypatch):
    """Reduces the self-check to maps that take seconds in the interpreter, still in one pass and in chunks."""
    if DEVICE == 'cpu':
        from mmvmamba.ops.scan import triton_launch as launch

        monkeypatch.setattr(launch, 'MIN_CHUNK', 4)
        monkeypatch.setattr(self_check, 'BATCH', 1)
        monkeypatch.setattr(self_check, 'SIZES', ((2, 3), (3, 6)))


class TestKernels:
    __test__ = INTERPRETED or DEVICE == 'cuda'

    @pytest.mark.parametrize(('states', 'channels'), [(1, 40), (2, 5), (16, 10)])  # neither is a multiple of a block
    def test_cross_scan_matches_the_reference(self, schedule, states, channels):
        check(make_inputs(size=(3, 5), states=states, channels=channels))

    @pytest.mark.parametrize(
        'traversals',
        [[ROW], [COLUMN_REVERSED], [COLUMN, COLUMN_REVERSED], [ROW_REVERSED, ROW, ROW, COLUMN, ROW_REVERSED]],
    )
    def test_every_traversal_matches_the_reference(self, traversals, schedule):
        check(make_inputs(size=(3, 4), channels=3, traversals=traversals), traversals)

    def test_separate_map_per_traversal(self):
        check(make_inputs(size=(3, 4), channels=3, shared=False))

    @pytest.mark.parametrize('size', [(1, 14), (11, 1), (1, 1), (7, 2)])
    def test_map_sizes(self, size):
        check(make_inputs(size=size, channels=5))

    def test_two_maps_in_sequence(self, schedule):
        traversals = [ROW, ROW_REVERSED]
        check(make_inputs(size=(1, 9), channels=9, states=16, traversals=traversals, shared=False), traversals)

    def test_full_rank_dt(self):
        check(make_inputs(batch=2, size=(3, 4), channels=5, rank=None))

    @pytest.mark.parametrize('dt_softplus', [True, False])
    def test_without_optional_inputs(self, dt_softplus):
        inputs = make_inputs(size=(3, 4), channels=5, rank=None, optional=False)
        if not dt_softplus:
            inputs['dt'] = inputs['dt'].abs()
        check(inputs, dt_softplus=dt_softplus)

    @pytest.mark.parametrize('layout', ['channels_first', 'cropped', 'sliced'])
    def test_memory_layouts(self, layout):
        inputs = make_inputs(batch=2, size=(3, 4), channels=5, states=3)
        for name in ('x', 'dt', 'B', 'C'):
            t = inputs[name]
            inputs[name] = {
                'channels_first': t.transpose(-1, -3).contiguous().transpose(-1, -3),
                'cropped': torch.nn.functional.pad(t, (0, 0, 2, 1, 1, 0))[..., 1:, 2:-1, :],
                'sliced': torch.nn.functional.pad(t, (3, 2))[..., 3:-2],
            }[layout]
        check(inputs)

    @pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
    def test_16_bit_maps(self, dtype, schedule):
        check(make_inputs(size=(3, 4), channels=5, dtype=dtype))

    @pytest.mark.parametrize('traversals', [[ROW], CROSS])
    def test_out_dtype(self, traversals):
        inputs = ScanInputs(
            **make_inputs(size=(2, 3), channels=5, traversals=traversals), codes=traversals, dt_softplus=True
        )
        y = TRITON.forward(inputs, torch.float32)
        for dtype in (torch.float16, torch.bfloat16):
            result = TRITON.forward(inputs, dtype)
            if INTERPRETED and dtype == torch.bfloat16:  # the interpreter truncates where a device rounds
                torch.testing.assert_close(result, y.to(dtype), rtol=torch.finfo(dtype).eps, atol=0)
            else:
                assert torch.equal(result, y.to(dtype))

    def test_extreme_steps_and_decays(self, schedule):
        inputs = make_inputs(size=(3, 4), channels=7, rank=None)
        inputs['dt_bias'] = torch.tensor([-100.0, -30, -8, 0, 8, 30, 100], device=DEVICE).expand(4, 7)
        inputs['A'] = torch.tensor([-64, -16, -4, -1, -0.1, -1e-2, -1e-4], device=DEVICE).expand(4, 7)[..., None]
        check(inputs)

    @pytest.mark.parametrize('value', [float('nan'), float('inf')])
    @pytest.mark.parametrize('name', ['x', 'dt'])
    def test_non_finite_values_propagate(self, name, value, schedule):
        inputs = make_inputs(size=(3, 4), channels=5, rank=None, traversals=[COLUMN])
        inputs[name] = inputs[name].clone()
        inputs[name].view(-1)[inputs[name].numel() // 2] = value
        scan = ScanInputs(**inputs, codes=[COLUMN], dt_softplus=True)
        y = TRITON.forward(scan, torch.float32)
        expected = reference.selective_scan_2d(scan)
        torch.testing.assert_close(y, expected, equal_nan=True)
        assert not y.isfinite().all()

    def test_repeats_are_bit_equal(self, schedule):
        inputs = make_inputs(size=(2, 4), channels=5)
        grad_y = torch.ones_like(inputs['x'])
        first, second = (run_kernels(inputs, grad_y, CROSS) for _ in range(2))
        assert all(torch.equal(first[name], second[name]) for name in first)

    def test_batch_is_split_into_parts(self, monkeypatch):
        from mmvmamba.ops.scan import triton_launch as launch

        traversals = [ROW, COLUMN_REVERSED]
        inputs = make_inputs(batch=3, size=(2, 3), channels=5, traversals=traversals)
        grad_y = torch.ones_like(inputs['x'])
        whole = run_kernels(inputs, grad_y, traversals)
        image = launch.scratch_bytes(inputs['x'].shape, inputs['A'].shape)
        monkeypatch.setattr(launch, 'MAX_SCRATCH', 2 * image)
        for name, result in run_kernels(inputs, grad_y, traversals).items():
            torch.testing.assert_close(result, whole[name], msg=name)

    def test_64_bit_offsets(self, monkeypatch):
        from mmvmamba.ops.scan import triton_launch as launch

        monkeypatch.setattr(launch.Scan, 'wide', lambda *_: True)
        check(make_inputs(size=(3, 4), channels=5))

    def test_empty_inputs(self):
        inputs = make_inputs(batch=0, size=(3, 4), channels=5)
        results = run_kernels(inputs, torch.empty_like(inputs['x']), CROSS)
        assert results['y'].shape == (0, 3, 4, 5)
        assert not results['A'].any()

    def test_too_many_traversals_are_rejected(self):
        traversals = [ROW] * 16
        with pytest.raises(ValueError, match='at most 15 traversals, not 16'):
            run_kernels(make_inputs(size=(1, 2), traversals=traversals), None, traversals)

    @pytest.mark.parametrize(('dtype', 'states'), [(torch.float32, 1), (torch.bfloat16, 16), (torch.float16, 1)])
    def test_self_check_passes(self, small_check, dtype, states):
        inputs = make_inputs(states=states, dtype=dtype)
        use = ScanSignature.of(ScanInputs(**inputs, codes=CROSS, dt_softplus=True))
        found = self_check.errors(TRITON.forward, TRITON.backward, use)
        assert list(found) == ['y', *(f'd{name}' for name in NAMES)]
        assert max(found.values()) < self_check.tolerance(use) / 2

    @pytest.mark.parametrize(
        ('kernel', 'wrong'), [('scan_fwd_kernel', 'y'), ('scan_bwd_kernel', 'dx'), ('state_passing_kernel', 'y')]
    )
    def test_self_check_finds_broken_kernels(self, small_check, monkeypatch, caplog, kernel, wrong):
        from mmvmamba.ops.scan import triton_launch as launch

        kept = getattr(launch, kernel)

        class Broken:  # computes the decays from a wrong A
            def __getitem__(self, grid):
                return lambda p_A, **arguments: kept[grid](p_A=p_A / 2, **arguments)

        monkeypatch.setattr(launch, kernel, Broken())
        monkeypatch.setattr(self_check, '_errors', {})
        monkeypatch.setitem(SCAN.backends, 'native', TRITON)
        inputs = make_inputs(size=(2, 3), channels=3)
        with caplog.at_level('WARNING', 'mmvmamba'):
            y = selective_scan_2d(**inputs)
        assert re.search(rf'triton failed its first check on .* and N=1, .*{wrong} is off by', caplog.text)
        torch.testing.assert_close(y, SCAN.plain.forward(ScanInputs(**inputs, codes=CROSS, dt_softplus=True)))

    @pytest.mark.skipif(DEVICE == 'cpu', reason='too long for the interpreter')
    @pytest.mark.parametrize(('batch', 'size', 'states'), [(1, (255, 257), 1), (1, (96, 96), 16), (64, (28, 28), 1)])
    def test_large_maps(self, batch, size, states):
        check(make_inputs(batch=batch, size=size, states=states, channels=96))


@pytest.mark.parametrize('states', [1, 2, 16, 64])
def test_self_check_covers_every_schedule(states):
    """One program per sequence, and chunks: at least three, so that one is entered with a decayed state."""
    from mmvmamba.ops.scan import triton_launch as launch

    for channels in (launch.forward_channels(states), launch.backward_channels(states)):
        blocks = self_check.BATCH * -(-self_check.CHANNELS // channels)
        whole, cut = (
            launch.schedule(blocks, h * w, launch.steps_ahead(states, h * w), CROSS, multiprocessors=132).chunks
            for h, w in self_check.SIZES
        )
        assert whole == 1 and cut >= 3


@pytest.mark.parametrize(
    ('blocks', 'length', 'groups', 'chunks'),
    [
        (10**4, 3136, [0, 1, 0, 1], 1),  # a batch: one pass
        (400, 3136, [0, 1, 2, 3], 1),  # a small batch: one pass per traversal
        (3, 3136, [0, 1, 0, 1], 196),  # one image: chunks
        (3, 25, [0, 1, 2, 3], 1),
    ],
)  # too short to divide
def test_schedule(blocks, length, groups, chunks):
    from mmvmamba.ops.scan import triton_launch as launch

    schedule = launch.schedule(blocks, length, 8, CROSS, multiprocessors=132)
    assert (schedule.groups, schedule.chunks) == (groups, chunks)
    assert (chunks - 1) * schedule.chunk < length <= chunks * schedule.chunk
