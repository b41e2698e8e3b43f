"""Tests the self-check with sound and deliberately broken kernels; `test_triton.py` covers Triton's kernels."""

import dataclasses
import logging
import os
import subprocess
import sys
import threading

import pytest
import torch
from torch._subclasses import FakeTensorMode

from mmvmamba import __main__
from mmvmamba.ops import selective_scan_2d, self_check, use_backend
from mmvmamba.ops.conv.backends import CONV
from mmvmamba.ops.conv.conv_silu import conv_silu_2d
from mmvmamba.ops.operation import _warn_once
from mmvmamba.ops.scan.backends import SCAN

from .cases import scan_inputs, value_and_grads

CHECK = len(self_check.SIZES)  # forward calls, and backward calls, of one check


@pytest.fixture
def put(monkeypatch):
    """Replaces the first backend of 'auto' by a kernel that computes like 'chunked' and applies `breakage`."""

    def put(broken=None, breakage=None):
        calls = []
        _warn_once.cache_clear()  # each test acts as a separate process
        self_check._warn_unchecked.cache_clear()

        def function(name):
            def run(*arguments):
                calls.append(name)
                results = getattr(SCAN.backends['chunked'], name)(*arguments)
                return breakage(results) if name == broken else results

            return run

        kernel = dict(
            devices=('cpu',), forward=function('forward'), backward=function('backward'), verify_on_first_use=True
        )
        record = dataclasses.replace(SCAN.backends['native'], unavailable_reason=lambda: None, **kernel)
        monkeypatch.setitem(SCAN.backends, 'native', record)
        return calls

    return put


def inputs(n=2, dtype=torch.float32):
    return scan_inputs(1, 3, 4, 5, n, K=4, rank=2, dtype=dtype)


def scale(results):
    return results * 1.1 if isinstance(results, torch.Tensor) else (results[0], results[1] * 1.1, *results[2:])


def one_nan(results):
    tensor = results if isinstance(results, torch.Tensor) else results[2]
    tensor.view(-1)[-1] = float('nan')
    return results


def fail(results):
    raise RuntimeError('CUDA error: too many resources requested for launch\nmore about that\n')


@pytest.mark.parametrize('broken', ['forward', 'backward'])
@pytest.mark.parametrize('breakage, said', [(scale, 'off by'), (one_nan, 'off by nan'), (fail, 'too many resources')])
def test_broken_kernel_is_replaced_by_the_fallback(put, caplog, broken, breakage, said):
    with use_backend('chunked'):
        expected = value_and_grads(selective_scan_2d, inputs())
    calls = put(broken, breakage)
    with caplog.at_level(logging.WARNING, 'mmvmamba'):
        found = value_and_grads(selective_scan_2d, inputs())
        tried = len(calls)
        value_and_grads(selective_scan_2d, inputs())
    torch.testing.assert_close(found, expected)
    assert len(calls) == tried <= 2 * CHECK
    messages = [record.message for record in caplog.records if 'failed its first check' in record.message]
    assert len(messages) == 1 and said in messages[0] and '\n' not in messages[0] and 'report' in messages[0]


@pytest.mark.parametrize('breakage', [scale, fail])
def test_explicitly_chosen_broken_kernel_raises(put, breakage):
    calls = put('backward', breakage)
    for _ in range(2):
        with use_backend('native'), pytest.raises(RuntimeError, match='instead: native failed its first check'):
            selective_scan_2d(**inputs())
    assert len(calls) <= 2 * CHECK


def test_sound_kernel_is_checked_once_per_signature(put, caplog):
    calls = put()
    for _ in range(3):
        value_and_grads(selective_scan_2d, inputs())
    assert [calls.count(name) for name in ('forward', 'backward')] == [CHECK + 3] * 2
    selective_scan_2d(**inputs(dtype=torch.bfloat16))
    assert calls.count('forward') == 2 * CHECK + 4
    selective_scan_2d(**inputs(n=3))
    assert calls.count('forward') == 3 * CHECK + 5
    assert not caplog.records


def test_threads_wait_for_one_check(put):
    calls = put()
    threads = [threading.Thread(target=lambda: selective_scan_2d(**inputs())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert calls.count('backward') == CHECK and calls.count('forward') == CHECK + 4


def test_check_is_independent_of_the_global_torch_state(put, caplog):
    put()
    before = torch.get_rng_state()
    with torch.inference_mode(), torch.autocast('cpu', torch.bfloat16):
        selective_scan_2d(**inputs())
    put()
    try:
        torch.set_default_dtype(torch.float64)
        torch.set_default_device('meta')
        selective_scan_2d(**inputs())
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
    assert torch.equal(torch.get_rng_state(), before)
    assert not caplog.records


def test_selection_and_tracing_do_not_run_the_check(put):
    calls = put()
    assert SCAN.find_backend('cpu', [torch.float32])[0].name == 'native'
    with FakeTensorMode() as mode:
        selective_scan_2d(**{name: mode.from_tensor(t) for name, t in inputs().items()})
    assert not calls


def test_graph_capture_skips_the_check(put, monkeypatch, caplog):
    calls = put()
    monkeypatch.setattr(self_check, '_is_capturing', lambda device: True)
    for _ in range(2):
        selective_scan_2d(**inputs())
    assert calls == ['forward'] * 2
    assert caplog.text.count('run the model once before') == 1
    monkeypatch.undo()
    calls = put()
    selective_scan_2d(**inputs())
    assert len(calls) == 2 * CHECK + 1


def test_out_of_memory_does_not_count_as_a_failed_check(put):
    def no_memory(results):
        raise torch.cuda.OutOfMemoryError

    put('forward', no_memory)
    for _ in range(2):
        with pytest.raises(torch.cuda.OutOfMemoryError):
            selective_scan_2d(**inputs())


def test_check_can_be_disabled(put, monkeypatch):
    monkeypatch.setattr(self_check, 'ENABLED', False)
    calls = put('backward', fail)
    selective_scan_2d(**inputs())
    assert calls == ['forward']


def test_environment_variable_disables_the_check():
    code = 'from mmvmamba.ops import self_check; print(self_check.ENABLED)'
    environment = {**os.environ, 'MMVMAMBA_SELF_CHECK': '0'}
    assert subprocess.run([sys.executable, '-c', code], env=environment, capture_output=True).stdout == b'False\n'


def test_diagnosis_shows_whether_the_check_is_enabled(monkeypatch, capsys):
    monkeypatch.setattr(__main__, 'PACKAGES', ())
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'get_device_name', lambda: 'a device')
    __main__.main()
    assert 'Comparison of the first Triton scan of each kind with plain PyTorch: on' in capsys.readouterr().out


@pytest.mark.parametrize('broken', ['forward', 'backward'])
@pytest.mark.parametrize('breakage', [scale, one_nan, fail])
def test_broken_convolution_is_replaced_by_the_fallback(put, caplog, monkeypatch, broken, breakage):
    put()
    calls = []

    def run(*arguments):
        calls.append(broken)
        return breakage(getattr(CONV.backends['chunked'], broken)(*arguments))

    record = dataclasses.replace(CONV.backends['native'], verify_on_first_use=True, **{broken: run})
    monkeypatch.setitem(CONV.backends, 'native', record)
    x, weight = torch.randn(2, 5, 6, 3, requires_grad=True), torch.randn(3, 1, 3, 3, requires_grad=True)
    bias = torch.randn(3, requires_grad=True)
    with use_backend('chunked'):
        expected = torch.autograd.grad(conv_silu_2d(x, weight, bias).sin().sum(), (x, weight, bias))
    for _ in range(2):
        found = torch.autograd.grad(conv_silu_2d(x, weight, bias).sin().sum(), (x, weight, bias))
        torch.testing.assert_close(found, expected)
    assert 1 <= len(calls) <= CHECK
    assert caplog.text.count('The convolution runs in plain PyTorch on cpu, slower than a kernel: native failed') == 1
    with (
        use_backend('native'),
        pytest.raises(RuntimeError, match='native failed its first check on the convolution on'),
    ):
        conv_silu_2d(x, weight, bias)
