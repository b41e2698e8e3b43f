"""Runs the cases of mamba-ssm's own scan test against the recurrence in float64."""

import os
from itertools import product

import pytest
import torch
import torch.nn.functional as F

from mmvmamba.ops import selective_scan
from mmvmamba.ops.scan import reference
from mmvmamba.ops.scan.scan_inputs import ScanInputs

BATCH, CHANNELS, STATES = 2, 4, 8
LENGTHS = (8, 16, 32, 64, 128, 256, 372, 512, 784, 1024, 1134, 2048, 4096)
FORMS = [(B, C, 1) for B in ('constant', 'varying') for C in ('constant', 'varying')] + [('varying', 'varying', 2)]
SWITCHES = list(product([False, True], repeat=5))  # D, z, bias, softplus, last state
# Tolerances by dtype, relative to the largest element: one rounding in 16 bits. With thousands of steps and
# decays close to 1, some dA are differences of large sums; the float32 recurrence itself is then off by 8e-5.
TOLERANCES = {torch.float32: 1e-4, torch.float16: 1e-3, torch.bfloat16: 8e-3}


def make_inputs(dtype, forms, switches, length, seed):
    """Sequences have the given dtype; parameters, including a constant B or C, are float32."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape, dtype=torch.float32, uniform=None):
        if uniform is not None:
            return (uniform * torch.rand(*shape, generator=generator)).to(dtype)
        return torch.randn(*shape, generator=generator).to(dtype)

    def matrix(form):
        if form == 'constant':
            return draw(CHANNELS, STATES)
        return draw(BATCH, *((groups,) if groups > 1 else ()), STATES, length, dtype=dtype)

    B_form, C_form, groups = forms
    D, z, bias, softplus, last_state = switches
    sequence = (BATCH, CHANNELS, length)
    tensors = dict(
        u=draw(*sequence, dtype=dtype),
        delta=draw(*sequence, dtype=dtype, uniform=0.5),
        A=draw(CHANNELS, STATES, uniform=-0.5),
        B=matrix(B_form),
        C=matrix(C_form),
        D=draw(CHANNELS) if D else None,
        z=draw(*sequence, dtype=dtype) if z else None,
        delta_bias=draw(CHANNELS, uniform=0.5) if bias else None,
    )
    return tensors, dict(delta_softplus=softplus, return_last_state=last_state), draw(*sequence, dtype=dtype)


def exact_scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus, return_last_state):
    """Float64 reference: every state of every channel is a channel of a map of height 1 with one traversal."""

    def each_state(t):  # B or C -> (b or 1, L or 1, d, n)
        if t.dim() == 2:
            return t[None, None]
        t = t.unsqueeze(1) if t.dim() == 3 else t
        return t.repeat_interleave(CHANNELS // t.shape[1], 1).permute(0, 3, 1, 2)

    steps = u.mT  # (b, L, d)
    one = steps.new_ones(len(u), 1, 1, u.shape[-1], 1)
    scan = ScanInputs(
        (steps.unsqueeze(-1) * each_state(B)).flatten(2)[:, None],
        delta.mT.repeat_interleave(STATES, -1)[:, None, None],
        A.reshape(1, -1, 1),
        one,
        one,
        None,
        None if delta_bias is None else delta_bias.repeat_interleave(STATES)[None],
        None,
        [0],
        delta_softplus,
    )
    states = reference.selective_scan_2d(scan)[:, 0].unflatten(-1, A.shape)  # (b, L, d, n)
    y = (states * each_state(C)).sum(-1).mT
    y = y if D is None else y + D[:, None] * u
    y = y if z is None else y * F.silu(z)
    return (y, states[:, -1]) if return_last_state else y


def results(function, tensors, options, weight):
    """Returns output, last state and gradients by name."""
    leaves = {name: t if t is None else t.detach().requires_grad_() for name, t in tensors.items()}
    y = function(**leaves, **options)
    y, found = (y[0], {'last state': y[1].detach()}) if options['return_last_state'] else (y, {})
    y.backward(weight)
    return found | {'y': y.detach()} | {f'd{name}': t.grad for name, t in leaves.items() if t is not None}


def check(dtype, forms, switches, length, seed):
    tensors, options, weight = make_inputs(dtype, forms, switches, length, seed)
    found = results(selective_scan, tensors, options, weight)
    doubles = {name: t if t is None else t.double() for name, t in tensors.items()}
    exact = results(exact_scan, doubles, options, weight.double())
    assert found.keys() == exact.keys()
    assert found['y'].dtype == dtype
    for name, t in found.items():
        error = (t.double() - exact[name]).abs().max() / exact[name].abs().max()
        assert error <= TOLERANCES[t.dtype], f'{name} is off by {error:.1e} with {switches}, length {length}'


def name(forms):
    return 'B {}, C {}, groups {}'.format(*forms)


@pytest.mark.parametrize('forms', FORMS, ids=name)
@pytest.mark.parametrize('dtype', TOLERANCES, ids=str)
def test_all_switches_match_float64(dtype, forms):
    for seed, switches in enumerate(SWITCHES):
        check(dtype, forms, switches, LENGTHS[seed % 4], seed)


@pytest.mark.parametrize('length', LENGTHS[4:])
@pytest.mark.parametrize('groups', [1, 2])
def test_all_lengths_match_float64(length, groups):
    check(torch.float32, ('varying', 'varying', groups), SWITCHES[-1], length, length)


@pytest.mark.skipif('MMVMAMBA_WHOLE_MATRIX' not in os.environ, reason='MMVMAMBA_WHOLE_MATRIX=1 runs it, in an hour')
@pytest.mark.parametrize('forms', FORMS, ids=name)
@pytest.mark.parametrize('dtype', TOLERANCES, ids=str)
def test_full_matrix_matches_float64(dtype, forms):
    for length, (seed, switches) in product(LENGTHS, enumerate(SWITCHES)):
        check(dtype, forms, switches, length, seed)
