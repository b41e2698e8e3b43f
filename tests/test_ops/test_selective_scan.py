"""Tests the public scans against the sequential reference, and the operator with PyTorch's own checks."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from mmvmamba.ops import BIDIRECTIONAL, CROSS, UNIDIRECTIONAL, native, selective_scan, selective_scan_2d, use_backend
from mmvmamba.ops.arguments import DTYPES
from mmvmamba.ops.scan.chunked import linear_scan
from mmvmamba.ops.scan.scan_inputs import ScanInputs

from .cases import scan_inputs, value_and_grads

CASES = {
    'one state': (dict(b=2, H=5, W=7, d=3, n=1), CROSS),
    'many states': (dict(b=1, H=6, W=3, d=5, n=16), CROSS),
    'row map': (dict(b=2, H=1, W=23, d=4, n=2), CROSS),
    'column map': (dict(b=2, H=23, W=1, d=4, n=2), CROSS),
    'single position': (dict(b=1, H=1, W=1, d=2, n=2), CROSS),
    'low rank': (dict(b=2, H=4, W=6, d=5, n=1, rank=2), CROSS),
    'low rank, a map each': (dict(b=2, H=1, W=20, d=4, n=3, rank=2, per_traversal=True), ('row', 'row_reversed')),
    'repeats': (dict(b=1, H=4, W=5, d=2, n=2), UNIDIRECTIONAL),
    'bidirectional': (dict(b=1, H=4, W=5, d=2, n=2), BIDIRECTIONAL),
    'one traversal': (dict(b=1, H=4, W=5, d=2, n=2), ('column_reversed',)),
    'nothing optional': (dict(b=1, H=3, W=5, d=2, n=2, D=False, bias=False), CROSS),
}


@pytest.fixture(params=CASES)
def case(request):
    shape, traversals = CASES[request.param]
    return scan_inputs(**shape, K=len(traversals)), traversals


@pytest.mark.parametrize('backend', ['chunked', 'auto'])
@pytest.mark.parametrize('dt_softplus', [True, False])
def test_scan_matches_the_reference_in_float64(case, backend, dt_softplus):
    """'chunked' is differentiated by autograd, 'auto' by the operator's own backward pass."""
    inputs, traversals = case
    if not dt_softplus:  # without softplus, steps have either sign: keep them small, or the states explode
        inputs |= {name: inputs[name] * 0.01 for name in ('dt', 'dt_bias') if inputs[name] is not None}
    results = {}
    for name in ('reference', backend):
        with use_backend(name):
            results[name] = value_and_grads(selective_scan_2d, inputs, traversals=traversals, dt_softplus=dt_softplus)
    (y, grads), (y_ref, grads_ref) = results[backend], results['reference']
    torch.testing.assert_close(y, y_ref, atol=1e-12, rtol=1e-10)
    for name in grads:
        torch.testing.assert_close(
            grads[name], grads_ref[name], atol=1e-11, rtol=1e-9, msg=lambda m, name=name: f'{name}: {m}'
        )


@pytest.mark.parametrize('backend', ['reference', 'chunked', 'auto'])
def test_gradcheck(backend):
    inputs = scan_inputs(1, 2, 3, 2, 2, K=4, rank=2)
    tensors = [t.requires_grad_() for t in inputs.values()]
    with use_backend(backend):
        assert torch.autograd.gradcheck(lambda *t: selective_scan_2d(*t), tensors)


@pytest.mark.parametrize('length', [1, 2, 3, 9, 10, 17, 100])
@pytest.mark.parametrize('reverse', [False, True])
def test_linear_scan_matches_the_recurrence(length, reverse):
    a, b = torch.rand(2, length, 3, 2, dtype=torch.float64), torch.randn(2, length, 3, 2, dtype=torch.float64)
    h, expected = 0, [None] * length
    for t in range(length)[::-1] if reverse else range(length):
        h = expected[t] = a[:, t] * h + b[:, t]
    torch.testing.assert_close(linear_scan(a, b, reverse), torch.stack(expected, 1))


def test_strong_decay_does_not_overflow():
    """Implementations that divide by products of decays give NaN here."""
    inputs = scan_inputs(1, 16, 16, 4, 16, K=4, dtype=torch.float32)
    inputs['dt'] = inputs['dt'] * 5 + 10
    with use_backend('chunked'):
        y = selective_scan_2d(**inputs)
    with use_backend('reference'):
        expected = selective_scan_2d(**{k: t if t is None else t.double() for k, t in inputs.items()})
    torch.testing.assert_close(y.double(), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.bfloat16])
def test_opcheck(dtype):
    inputs = scan_inputs(1, 3, 2, 2, 2, K=2, rank=2, dtype=dtype)
    tensors = [t.requires_grad_() for t in inputs.values()]
    torch.library.opcheck(torch.ops.mmvmamba.selective_scan_2d, (*tensors, [0, 3], True, torch.float32))
    no_options = scan_inputs(1, 3, 2, 2, 2, K=2, D=False, bias=False, dtype=dtype)
    torch.library.opcheck(torch.ops.mmvmamba.selective_scan_2d, (*no_options.values(), [0, 1], False, dtype))


def test_output_has_the_expected_dtype():
    inputs = scan_inputs(1, 3, 4, 8, 1, K=4, dtype=torch.float32)
    y = selective_scan_2d(**inputs)
    for dtype in (torch.float16, torch.bfloat16):
        half = {k: t if t is None or k in ('A', 'D', 'dt_bias') else t.to(dtype) for k, t in inputs.items()}
        assert selective_scan_2d(**half).dtype == dtype
        wide, grads = value_and_grads(selective_scan_2d, half, out_dtype=torch.float32)
        assert wide.dtype == torch.float32
        assert all(grads[k].dtype == half[k].dtype for k in grads)
        torch.testing.assert_close(wide, y, atol=0.1, rtol=0.1)
    assert selective_scan_2d(**{k: t if t is None else t.double() for k, t in inputs.items()}).dtype == torch.float64


def test_autocast_keeps_the_state_in_float32():
    inputs = scan_inputs(1, 3, 4, 8, 1, K=4, dtype=torch.float32)
    expected = selective_scan_2d(**inputs)
    with torch.autocast('cpu', torch.bfloat16):
        assert torch.equal(selective_scan_2d(**inputs), expected)


def test_compile_and_export():
    inputs = scan_inputs(1, 3, 4, 2, 2, K=4, rank=2, dtype=torch.float32)
    compiled = torch.compile(lambda **kw: selective_scan_2d(**kw).sin(), fullgraph=True, backend='aot_eager')
    y, grads = value_and_grads(compiled, inputs)
    y_eager, grads_eager = value_and_grads(lambda **kw: selective_scan_2d(**kw).sin(), inputs)
    assert torch.equal(y, y_eager)
    assert all(torch.equal(grads[k], grads_eager[k]) for k in grads)

    class Scan(torch.nn.Module):
        def forward(self, x, dt, A, B, C, D, dt_bias, dt_weight):
            return selective_scan_2d(x, dt, A, B, C, D, dt_bias, dt_weight)

    program = torch.export.export(Scan(), tuple(inputs.values()))
    assert sum(node.target == torch.ops.mmvmamba.selective_scan_2d.default for node in program.graph.nodes) == 1
    assert torch.equal(program.module()(*inputs.values()), selective_scan_2d(**inputs))
    with use_backend('chunked'):
        decomposed = torch.export.export(Scan(), tuple(inputs.values()))
    assert not [node for node in decomposed.graph.nodes if 'mmvmamba' in str(node.target)]
    torch.testing.assert_close(decomposed.module()(*inputs.values()), selective_scan_2d(**inputs))


def test_double_backward_is_rejected():
    inputs = scan_inputs(1, 2, 2, 2, 1, K=4)
    x = inputs['x'].requires_grad_()
    (grad,) = torch.autograd.grad(selective_scan_2d(**inputs).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match='no second derivative'):
        grad.sum().backward()


@pytest.mark.parametrize(
    'name, change, fault',
    [
        ('x', lambda t: t[0], 'must be'),
        ('dt', lambda t: t[:, :, :, :-1], 'has the shape'),
        ('A', lambda t: t[:2], 'has the shape'),
        ('B', lambda t: t[..., :1], 'has the shape'),
        ('C', lambda t: t.long(), 'is torch.int64'),
        ('D', lambda t: t[:, 0], 'has the shape'),
        ('dt_weight', lambda t: t.transpose(1, 2), 'has the shape'),
        ('dt_bias', lambda t: t.to('meta'), 'is on meta'),
        ('dt', lambda t: t.sum(), 'has the shape'),
        ('A', lambda t: t.numpy(), 'must be a tensor'),
    ],
)
def test_error_names_the_mismatching_input(name, change, fault):
    inputs = scan_inputs(1, 3, 4, 5, 2, K=4, rank=2)
    inputs[name] = change(inputs[name])
    with pytest.raises(ValueError, match=f'{name} {fault}'):
        selective_scan_2d(**inputs)


def test_empty_batch_is_supported_and_empty_map_is_rejected():
    inputs = scan_inputs(0, 3, 4, 5, 2, K=4)
    assert selective_scan_2d(**inputs).shape == (0, 3, 4, 5)
    inputs = scan_inputs(1, 0, 4, 5, 2, K=4)
    with pytest.raises(ValueError, match='at least one position'):
        selective_scan_2d(**inputs)


@pytest.mark.parametrize('dtype', [torch.int64, torch.bool, torch.complex64, torch.float8_e4m3fn])
def test_unsupported_dtypes_are_rejected(dtype):
    inputs = scan_inputs(1, 3, 4, 5, 2, K=4)
    with pytest.raises(ValueError, match=f'out_dtype is {dtype}; the scan returns float32, bfloat16'):
        selective_scan_2d(**inputs, out_dtype=dtype)
    with pytest.raises(ValueError, match=f'x is {dtype}; the scan takes float32, bfloat16'):
        selective_scan_2d(**inputs | dict(x=inputs['x'].to(dtype)))


@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('out_dtype', DTYPES)
def test_any_floating_out_dtype_is_supported(dtype, out_dtype):
    inputs = scan_inputs(1, 3, 4, 5, 2, K=4, dtype=dtype)
    y, grads = value_and_grads(selective_scan_2d, inputs, out_dtype=out_dtype)
    with use_backend('reference'):
        expected, expected_grads = value_and_grads(selective_scan_2d, inputs, out_dtype=out_dtype)
    assert y.dtype == out_dtype and all(grads[name].dtype == dtype for name in grads)
    torch.testing.assert_close(y, expected, atol=0.03, rtol=0.03)
    torch.testing.assert_close(grads, expected_grads, atol=0.1, rtol=0.05)


@pytest.mark.parametrize('sizes', [dict(n=0), dict(n=2, rank=0)])
def test_zero_states_or_zero_rank_are_rejected(sizes):
    inputs = scan_inputs(1, 3, 4, 5, sizes['n'], K=4)
    if 'rank' in sizes:
        inputs |= dict(dt=torch.zeros(1, 4, 3, 4, 0), dt_weight=torch.zeros(4, 5, 0))
    with pytest.raises(ValueError, match='state size n and the rank r must be at least 1'):
        selective_scan_2d(**inputs)


class TestFunctionTransforms:
    @staticmethod
    def case():
        inputs = scan_inputs(2, 3, 4, 5, 2, K=4, rank=2)
        x = inputs.pop('x')
        return x, lambda x: selective_scan_2d(x, **inputs)

    @pytest.mark.parametrize('compiled', [False, True])
    def test_grad(self, compiled):
        x, scan = self.case()
        grad = torch.func.grad(lambda x: scan(x).sin().sum())
        grad = torch.compile(grad, fullgraph=True, backend='aot_eager') if compiled else grad
        (expected,) = torch.autograd.grad(scan(x.requires_grad_()).sin().sum(), x)
        torch.testing.assert_close(grad(x.detach()), expected)

    def test_vmap_and_grad_within(self):
        x, scan = self.case()
        xs = torch.stack([x, x.flip(2)])
        torch.testing.assert_close(torch.func.vmap(scan)(xs), torch.stack([scan(x) for x in xs]))
        grad = torch.func.grad(lambda x: scan(x).sin().sum())
        torch.testing.assert_close(torch.func.vmap(grad)(xs), torch.stack([grad(x) for x in xs]))

    @pytest.mark.skipif(native.unavailable_reason() is not None, reason='no native scan')
    def test_explicitly_chosen_kernel_rejects_transforms(self):
        x, scan = self.case()
        with (
            use_backend('native'),
            pytest.raises(ValueError, match="'native' does not support the transforms of torch"),
        ):
            torch.func.vmap(scan)(x[None])


@pytest.mark.parametrize('flag', ['no', None, 0, 2.5, torch.tensor(True)])
def test_flags_must_be_bools(flag):
    """Applies to every backend; plain PyTorch would silently treat these values as true or false."""
    inputs = scan_inputs(1, 3, 4, 5, 2, K=1)
    for backend in ('auto', 'chunked', 'reference'):
        with use_backend(backend), pytest.raises(ValueError, match='dt_softplus=.* must be True or False'):
            selective_scan_2d(**inputs, traversals=('row',), dt_softplus=flag)
    u, A, B = torch.randn(1, 2, 3), -torch.rand(2, 1), torch.randn(1, 1, 3)
    for name in ('delta_softplus', 'return_last_state'):
        with pytest.raises(ValueError, match=f'{name}=.* must be True or False'):
            selective_scan(u, u, A, B, B, **{name: flag})


def test_last_state_is_accurate_after_a_large_step():
    """Sums of later steps must not be computed as differences of cumulative sums, which would lose small steps."""
    torch.manual_seed(0)
    u, delta, A, B = torch.randn(1, 3, 64), torch.rand(1, 3, 64), -torch.rand(3, 4), torch.randn(1, 4, 64)
    delta[..., 10] = 1e6
    _, state = selective_scan(u, delta, A, B, B, return_last_state=True)
    _, exact = selective_scan(*(t.double() for t in (u, delta, A, B, B)), return_last_state=True)
    torch.testing.assert_close(state.double(), exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('traversals', [('diagonal',), (), 'row', None, 4, (['row'],)])
def test_unknown_traversals_are_rejected(traversals):
    with pytest.raises(ValueError, match='traversals=.* must be a non-empty tuple'):
        selective_scan_2d(**scan_inputs(1, 3, 4, 5, 2, K=1), traversals=traversals)


@pytest.mark.skipif(native.unavailable_reason() is not None, reason='no native scan')
def test_explicitly_chosen_backend_rejects_unsupported_dtypes():
    with use_backend('native'), pytest.raises(ValueError, match="'native' does not support float64"):
        selective_scan_2d(**scan_inputs(1, 2, 2, 2, 1, K=4))


def mamba_ssm_reference(u, delta, A, B, C, D, z, bias, softplus):
    """Sequential scan of (b, d, L) sequences with mamba-ssm's argument names."""
    b, d, L = u.shape
    delta = delta + bias[:, None] if bias is not None else delta
    delta = F.softplus(delta) if softplus else delta

    def at(t, step):  # (b or 1, d or 1, n)
        if t.dim() == 2:
            return t[None]
        t = t[:, None] if t.dim() == 3 else t
        return t[..., step].repeat_interleave(d // t.shape[1], 1)

    h, ys = u.new_zeros(b, *A.shape), []
    for t in range(L):
        h = torch.exp(delta[:, :, t, None] * A) * h + (delta * u)[:, :, t, None] * at(B, t)
        ys.append((h * at(C, t)).sum(-1))
    y = torch.stack(ys, -1)
    y = y + D[:, None] * u if D is not None else y
    return y * F.silu(z) if z is not None else y, h


@pytest.mark.parametrize('B_form', ['constant', 'sequence', 'groups'])
@pytest.mark.parametrize('C_form', ['constant', 'sequence', 'groups'])
@pytest.mark.parametrize('optional', [True, False])
def test_sequence_scan_matches_mamba_ssm_semantics(B_form, C_form, optional):
    torch.manual_seed(0)
    b, d, n, L = 2, 6, 3, 11
    forms = dict(constant=(d, n), sequence=(b, n, L), groups=(b, 2, n, L))
    double = dict(dtype=torch.float64, requires_grad=True)
    u, delta, B, C = (torch.randn(*s, **double) for s in ((b, d, L), (b, d, L), forms[B_form], forms[C_form]))
    A = (-torch.rand(d, n, dtype=torch.float64)).requires_grad_()
    D, z, bias = (torch.randn(*s, **double) if optional else None for s in ((d,), (b, d, L), (d,)))
    y, state = selective_scan(u, delta, A, B, C, D, z, bias, delta_softplus=True, return_last_state=True)
    y_ref, state_ref = mamba_ssm_reference(u, delta, A, B, C, D, z, bias, True)
    torch.testing.assert_close(y, y_ref)
    torch.testing.assert_close(state, state_ref)
    inputs = [t for t in (u, delta, A, B, C, D, z, bias) if t is not None]
    for grad, expected in zip(
        *(torch.autograd.grad(out.sin().sum() + s.sum(), inputs) for out, s in ((y, state), (y_ref, state_ref)))
    ):
        torch.testing.assert_close(grad, expected)


def test_sequence_scan_accepts_different_groups_in_b_and_c():
    """mamba-ssm's reference supports this; its kernels do not."""
    u, A = torch.randn(2, 6, 5), -torch.rand(6, 3)
    B, C = torch.randn(2, 2, 3, 5), torch.randn(2, 3, 3, 5)
    expected = selective_scan(u, u, A, B.repeat_interleave(3, 1), C.repeat_interleave(2, 1))
    torch.testing.assert_close(selective_scan(u, u, A, B, C), expected)


@pytest.mark.parametrize(
    'change, message',
    [
        (
            dict(u=torch.randn(2, 6, 0), delta=torch.randn(2, 6, 0)),
            r'u is \(2, 6, 0\) .* one channel, one state and one step',
        ),
        (dict(B=torch.randn(2, 0, 3, 5)), r'B is \(2, 0, 3, 5\)'),
        (dict(D=torch.ones(6, dtype=torch.int64)), 'D is torch.int64; the scan takes float32'),
        (dict(z=torch.randn(2, 6, 5, device='meta')), 'z is on meta, u on cpu'),
        (dict(u=torch.randn(2, 6, 5).numpy()), 'u must be a tensor, not ndarray'),
        (dict(C=None), 'C must be a tensor, not NoneType'),
    ],
)
def test_sequence_scan_names_the_invalid_argument(change, message):
    inputs = dict(u=torch.randn(2, 6, 5), delta=torch.randn(2, 6, 5), A=-torch.rand(6, 3))
    inputs |= dict(B=torch.randn(6, 3), C=torch.randn(2, 3, 5)) | change
    with pytest.raises(ValueError, match=message):
        selective_scan(**inputs)


def test_sequence_scan_names_the_mismatching_input():
    u, A, B = torch.randn(2, 6, 5), -torch.rand(6, 3), torch.randn(2, 3, 5)
    for name, inputs in dict(
        A=(u, u, A[:4], B, B), delta=(u, u[:, :2], A, B, B), B=(u, u, A, B[:, :2], B), C=(u, u, A, B, B[:1])
    ).items():
        with pytest.raises(ValueError, match=name):
            selective_scan(*inputs)


@pytest.mark.skipif(torch.__version__ < '2.5', reason='the FlopCounterMode of PyTorch 2.4 leaves out own operators')
def test_flops_match_the_published_convention():
    from mmengine.analysis import FlopAnalyzer

    b, H, W, d, n, K, rank = 2, 3, 4, 5, 2, 4, 3
    inputs = scan_inputs(b, H, W, d, n, K, rank=rank, dtype=torch.float32)

    class Scan(torch.nn.Module):
        def forward(self, *tensors):
            return selective_scan_2d(*tensors)

    steps = b * K * H * W
    assert FlopAnalyzer(Scan(), tuple(inputs.values())).total() == 9 * steps * d * n + steps * d + steps * d * rank
    with FlopCounterMode(display=False) as counter:
        selective_scan_2d(**inputs)
    assert counter.get_total_flops() == 9 * steps * d * n + steps * d + 2 * steps * d * rank


def test_mamba_ssm_backend_converts_maps_to_sequences(monkeypatch):
    """Replaces mamba-ssm's function by our own 1-D scan, so that conversion and merging can be tested without a GPU."""
    import sys
    import types

    interface = types.ModuleType('mamba_ssm.ops.selective_scan_interface')
    interface.selective_scan_fn = selective_scan
    for name in ('selective_scan_cuda', 'mamba_ssm', 'mamba_ssm.ops'):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, 'mamba_ssm.ops.selective_scan_interface', interface)
    from mmvmamba.ops.scan import mamba_ssm_backend

    assert mamba_ssm_backend.unavailable_reason() is None
    for shape, traversals in CASES.values():
        inputs = scan_inputs(**shape, K=len(traversals), dtype=torch.float32)
        codes = [CROSS.index(t) for t in traversals]
        with use_backend('reference'):
            expected = selective_scan_2d(**inputs, traversals=traversals)
        torch.testing.assert_close(
            mamba_ssm_backend.selective_scan_2d(ScanInputs(*inputs.values(), codes, True)),
            expected,
            atol=1e-4,
            rtol=1e-4,
        )
