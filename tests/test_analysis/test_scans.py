"""Tests activation maps against autograd through the reference scan, and against the outputs they must sum to."""

import math

import numpy as np
import pytest
import torch

from mmvmamba import Vim, VMamba
from mmvmamba.analysis.scans import TokenLayout, record_scans, scan_attention, scan_order, statistics
from mmvmamba.ops import CROSS, selective_scan_2d, use_backend
from mmvmamba.ops.scan.scan_inputs import ScanInputs

BACKBONES = {
    'vmamba': lambda: VMamba(arch=dict(dims=8, depths=(1, 2, 1, 1), d_state=2)),
    'unidirectional': lambda: VMamba(arch=dict(dims=8, depths=(1, 2, 1, 1)), traversals='unidirectional'),
    'vim': lambda: Vim(arch=dict(embed_dims=16, depth=3), img_size=64),
    'vim with class token': lambda: Vim(arch=dict(embed_dims=16, depth=3), img_size=64, pooling='middle'),
    'vim, one convolution': lambda: Vim(arch=dict(embed_dims=16, depth=3), img_size=64, bidirectionality='ssm'),
}
BLOCK = 1


def recorded(name, height=64, width=96):
    torch.manual_seed(0)
    backbone = BACKBONES[name]().eval()
    image = torch.randn(1, 3, height, width)
    (scan,) = record_scans(backbone, image, [BLOCK])
    return backbone, scan, TokenLayout.of(backbone, scan, image.shape[2:])


def run_reference(scan, x, traversals=slice(None)):
    each = [None if t is None else t[:, traversals] for t in (scan.dt, scan.B, scan.C)]
    A, dt_bias, dt_weight = (None if t is None else t[traversals] for t in (scan.A, scan.dt_bias, scan.dt_weight))
    dt, B, C = each
    with use_backend('reference'):
        return selective_scan_2d(
            x, dt, A, B, C, None, dt_bias, dt_weight, traversals=scan.traversals[traversals], dt_softplus=True
        )


@pytest.mark.parametrize('name', BACKBONES)
def test_contributions_match_autograd_through_the_reference_scan(name):
    _, scan, layout = recorded(name)
    row, column = layout.in_scan(layout.height // 2, 1)
    weights = scan_attention(scan, row, column)
    assert weights.shape == (len(scan.codes), *scan.shape, scan.A.shape[1])
    for k in range(len(scan.codes)):
        x = (scan.x if scan.x.dim() == 4 else scan.x[:, k]).clone().requires_grad_()
        y = run_reference(scan, x, slice(k, k + 1))[0, row, column]
        for channel in (0, -1):
            (expected,) = torch.autograd.grad(y[channel], x, retain_graph=True)
            got = torch.zeros_like(expected[0])  # channels are independent
            got[..., channel] = weights[k, ..., channel]
            torch.testing.assert_close(got, expected[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('name', ['vmamba', 'vim with class token'])
def test_contributions_sum_to_the_scan_output(name):
    _, scan, layout = recorded(name)
    row, column = layout.in_scan(0, layout.width - 1)
    x = scan.x if scan.x.dim() == 5 else scan.x[:, None]
    read = (scan_attention(scan, row, column) * x[0]).sum((0, 1, 2))
    torch.testing.assert_close(read, run_reference(scan, scan.x)[0, row, column], rtol=1e-4, atol=1e-6)


def test_traversal_depends_only_on_earlier_positions():
    _, scan, layout = recorded('vmamba')
    assert scan.traversals == CROSS
    query = torch.tensor([2, 3])
    weights = scan_attention(scan, *query.tolist())
    for k, traversal in enumerate(CROSS):
        order = scan_order(traversal, layout.height, layout.width)
        (step,) = (order == query).all(1).nonzero()[0].tolist()
        passed = torch.zeros(layout.height, layout.width, dtype=torch.bool)
        passed[tuple(order[: step + 1].T)] = True
        assert torch.equal(weights[k].abs().sum(-1) > 0, passed), traversal


def test_class_token_is_excluded_from_the_map():
    backbone, scan, layout = recorded('vim with class token')
    assert (layout.height, layout.width) == (4, 6) and scan.shape == (1, 25)
    tokens = torch.arange(25.0).reshape(1, 1, 25, 1)
    assert layout.to_map(tokens).flatten().tolist() == [*range(12), *range(13, 25)]
    for row, column in ((0, 0), (1, 5), (2, 0), (3, 5)):
        assert layout.to_map(tokens)[0, row, column, 0] == layout.in_scan(row, column)[1]


def test_every_block_is_recorded_once():
    backbone, _, _ = recorded('vmamba')
    scans = record_scans(backbone, torch.randn(1, 3, 64, 32))
    assert [scan.shape for scan in scans] == [(16, 8), (8, 4), (8, 4), (4, 2), (2, 1)]


def test_step_and_memory_statistics():
    """The first traversal has a time step of 1/2 and A = -1, -4; the second has a time step of 1."""
    steps = torch.tensor([0.5, 1.0])
    dt = torch.log(torch.expm1(steps)).reshape(1, 2, 1, 1, 1).expand(1, 2, 3, 5, 2)
    A = torch.tensor([-1.0, -4.0]).expand(2, 2, 2)
    maps = torch.zeros(1, 2, 3, 5, 2)
    scan = ScanInputs(torch.zeros(1, 3, 5, 2), dt, A, maps, maps, None, None, None, [0, 1], True)
    np.testing.assert_allclose(statistics(scan, 0).step, 0.5, rtol=1e-5)
    np.testing.assert_allclose(statistics(scan, 0).memory[[0, -1]], [0.5, 2.0], rtol=1e-5)
    np.testing.assert_allclose(statistics(scan, 1).memory[[0, -1]], [0.25, 1.0], rtol=1e-5)
    low_rank = ScanInputs(
        torch.zeros(1, 3, 5, 2), dt[..., :1], A, maps, maps, None, torch.full((2, 2), math.log(2)),
        torch.ones(2, 2, 1), [0, 1], True,
    )  # fmt: skip
    np.testing.assert_allclose(statistics(low_rank, 0).step, math.log1p(2 * math.expm1(0.5)), rtol=1e-5)
