"""Tests values at the limits of their dtypes: results that the dtype can represent must be finite and close."""

import pytest
import torch

from mmvmamba.ops import native, selective_scan_2d, use_backend

from .cases import scan_inputs, value_and_grads

LARGEST = 65504.0  # largest finite float16


def fill(**values):
    """Sets inputs to one value each."""
    return lambda inputs: inputs | {name: torch.full_like(inputs[name], value) for name, value in values.items()}


def share(name, *values):
    """Splits an input into several values, which occur in one scan."""

    def edit(inputs):
        t = inputs[name].flatten().clone()
        for part, value in zip(t.chunk(len(values)), values):
            part.fill_(value)
        return inputs | {name: t.view_as(inputs[name])}

    return edit


EXTREMES = {
    'zeros': fill(**dict.fromkeys(('x', 'dt', 'A', 'B', 'C', 'D', 'dt_bias'), 0.0)),
    'x of zeros': fill(x=0.0),
    'constants': fill(x=1.0, dt=0.5, B=1.0, C=1.0),
    'the largest x': fill(x=LARGEST),
    'x of both ends': share('x', LARGEST, -LARGEST),
    'the largest dt': fill(dt=LARGEST),
    'the least dt': fill(dt=-LARGEST),
    'dt of both ends': share('dt', LARGEST, -LARGEST, 0.0),
    'dt where softplus turns': share('dt', -110.0, -88.0, -20.0, 20.0, 88.0, 110.0),
    'no decay': fill(A=0.0),
    'no decay, large steps': fill(A=0.0, dt=100.0),
    'the strongest decay': fill(A=-LARGEST),
    'hardly a decay': fill(A=-6e-8),
    'strongest decay, largest dt': fill(A=-LARGEST, dt=LARGEST),
    'strongest decay, least dt': fill(A=-LARGEST, dt=-LARGEST),
    'decays of both ends': share('A', 0.0, -6e-8, -1.0, -LARGEST),
    'the largest B': fill(B=LARGEST),
    'the largest C and D': fill(C=LARGEST, D=LARGEST),
}
WIDER = {  # beyond the range of float16
    'an endless decay': fill(A=-1e30),
    'endless decay, least dt': fill(A=-1e30, dt=-100.0),
    'endless decays and none': share('A', -1e30, 0.0),
    'endless steps': fill(dt=1e30),
    'subnormal x': fill(x=1e-40),
}


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize('backend', ['native', 'chunked'])
@pytest.mark.parametrize('name', [*EXTREMES, *WIDER])
def test_scan_of_extreme_values_matches_float64(name, backend, dtype):
    if backend == 'native' and (reason := native.unavailable_reason()):
        pytest.skip(reason)
    if name in WIDER and dtype == torch.float16:
        pytest.skip('not a number of the type')
    inputs = (EXTREMES | WIDER)[name](scan_inputs(1, 5, 6, 7, 2, K=4))
    inputs = {of: t.to(dtype) for of, t in inputs.items() if t is not None}
    with use_backend(backend):
        y, grads = value_and_grads(selective_scan_2d, inputs, out_dtype=torch.float32)
    with use_backend('reference'):
        exact = {of: t.double() for of, t in inputs.items()}
        expected, expected_grads = value_and_grads(selective_scan_2d, exact)
    compare('y', y, expected, torch.float32)
    for of, grad in grads.items():
        compare(f'the gradient of {of}', grad, expected_grads[of], dtype)


def compare(what, actual, expected, dtype):
    """Representable results must be finite. Sums cancel, so errors are relative to the largest value."""
    limits = torch.finfo(dtype)
    held = expected.abs() <= limits.max / 2
    assert not actual[~held].isnan().any(), f'{what} is no number where it is infinite'
    actual, expected = actual[held].double(), expected[held]
    assert actual.isfinite().all(), f'{what} is not finite'
    allowed = max(4 * limits.eps, 1e-5) * expected.abs().max() + limits.tiny if expected.numel() else 0
    assert ((actual - expected).abs() <= allowed).all(), f'{what} is {(actual - expected).abs().max():.3g} off'
