"""A new operation is a folder and a new backend is a record: both are selected, verified and reported like ours."""

import dataclasses
import logging

import pytest
import torch

from mmvmamba.ops import selective_scan_2d, self_check, use_backend
from mmvmamba.ops.operation import Backend, _warn_once
from mmvmamba.ops.scan import chunked
from mmvmamba.ops.scan.backends import SCAN

from .cases import scan_inputs, value_and_grads
from .toy_operation import CUBE, calls, cube


@pytest.fixture(autouse=True)
def _separate_process(monkeypatch):
    """Each test verifies kernels and logs warnings as in a new process."""
    monkeypatch.setattr(self_check, '_errors', {})
    _warn_once.cache_clear()
    calls.clear()


@pytest.fixture
def put(monkeypatch):
    """Replaces fields of the record of the kernel."""

    def put(**fields):
        monkeypatch.setitem(CUBE.backends, 'toy_kernel', dataclasses.replace(CUBE.backends['toy_kernel'], **fields))

    return put


def cube_and_grad(dtype=torch.float32):
    x = torch.tensor([-1.0, 0.5, 2.0], dtype=dtype, requires_grad=True)
    y = cube(x)
    [grad] = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(y, x**3)
    torch.testing.assert_close(grad, 3 * x**2)
    return y


def test_auto_verifies_the_kernel_of_a_new_operation_once_and_runs_it(caplog):
    cube_and_grad()
    assert calls == ['forward', 'backward'] * 2
    cube_and_grad()
    assert calls == ['forward', 'backward'] * 3
    assert not caplog.records


@pytest.mark.parametrize(
    'fields, reason',
    [
        (
            dict(forward=lambda x: 2 * x),
            'toy_kernel failed its first check on the cube on cpu with float32, y is off by',
        ),
        (dict(unavailable_reason=lambda: 'The toy is not built.'), 'The toy is not built.'),
    ],
    ids=['wrong results', 'unavailable'],
)
def test_a_kernel_that_cannot_run_is_replaced_and_the_reason_is_logged_once(fields, reason, put, caplog):
    put(**fields)
    with caplog.at_level(logging.WARNING, 'mmvmamba'):
        for _ in range(2):
            cube_and_grad()
    [record] = caplog.records
    assert f'The cube runs in plain PyTorch on cpu, slower than a kernel: {reason}' in record.message


def test_a_kernel_selected_by_name_runs_or_raises(put):
    with use_backend('toy_kernel'):
        cube_and_grad()
        assert calls
        with pytest.raises(ValueError, match="The cube backend 'toy_kernel' does not support float64"):
            cube_and_grad(torch.float64)
    put(forward=lambda x: 2 * x)
    with use_backend('toy_kernel'), pytest.raises(RuntimeError, match='instead: toy_kernel failed its first check'):
        cube_and_grad()
    put(unavailable_reason=lambda: 'The toy is not built.')
    with pytest.raises(RuntimeError, match="'toy_kernel' cannot run here: The toy is not built."):
        use_backend('toy_kernel')


def test_inputs_that_no_kernel_supports_use_plain_pytorch(caplog):
    cube_and_grad(torch.float64)
    with use_backend('chunked'):
        cube_and_grad()
    assert not calls
    assert CUBE.find_backend('toy', [torch.float32]) == (CUBE.plain, 'there is no kernel for toy tensors.')


def test_an_operation_without_a_backend_of_the_selected_name_uses_plain_pytorch():
    inputs = scan_inputs(1, 3, 4, 5, 2, K=4, dtype=torch.float32)
    with use_backend('chunked'):
        expected = selective_scan_2d(**inputs)
    with use_backend('toy_kernel'):
        assert torch.equal(selective_scan_2d(**inputs), expected)
    with use_backend('reference'):
        cube_and_grad()
    assert not calls


@pytest.fixture
def scan_record(monkeypatch):
    """A backend of the scan for float64 on a CPU, which 'auto' tries first; returns the calls of its functions."""
    ran = []

    def forward(inputs, out_dtype):
        ran.append('forward')
        return chunked.selective_scan_2d(inputs, out_dtype)

    def backward(grad_y, inputs):
        ran.append('backward')
        return chunked.selective_scan_2d_backward(grad_y, inputs)

    record = Backend('toy_scan', ('cpu',), (torch.float64,), forward, backward, verify_on_first_use=True)
    monkeypatch.setattr(SCAN, 'backends', {'toy_scan': record, **SCAN.backends})
    return ran


def test_a_new_record_is_a_backend_of_the_scan(scan_record):
    inputs = scan_inputs(1, 3, 4, 5, 2, K=4)
    with use_backend('chunked'):
        expected = value_and_grads(selective_scan_2d, inputs)
    checks = len(self_check.SIZES)
    torch.testing.assert_close(value_and_grads(selective_scan_2d, inputs), expected)
    assert scan_record == ['forward', 'backward'] * (checks + 1)
    with use_backend('toy_scan'):
        torch.testing.assert_close(value_and_grads(selective_scan_2d, inputs), expected)
        assert scan_record == ['forward', 'backward'] * (checks + 2)
        with pytest.raises(ValueError, match="The scan backend 'toy_scan' does not support float32"):
            selective_scan_2d(**scan_inputs(1, 3, 4, 5, 2, K=4, dtype=torch.float32))


def test_a_new_scan_backend_that_cannot_run_is_reported(scan_record, monkeypatch, caplog):
    record = dataclasses.replace(SCAN.backends['toy_scan'], unavailable_reason=lambda: 'The toy is not built.')
    monkeypatch.setitem(SCAN.backends, 'toy_scan', record)
    with caplog.at_level(logging.WARNING, 'mmvmamba'):
        selective_scan_2d(**scan_inputs(1, 3, 4, 5, 2, K=4))
    assert not scan_record
    assert 'The scan runs in plain PyTorch on cpu, slower than a kernel: The toy is not built.' in caplog.text
    with pytest.raises(RuntimeError, match="'toy_scan' cannot run here: The toy is not built."):
        use_backend('toy_scan')
