"""Selection of the backend by name, device and dtype, per thread, and for the backward pass."""

import dataclasses
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from torch.utils import backend_registration

import mmvmamba.ops.native
from mmvmamba.ops import CROSS, TRAVERSALS, current_backend, native, selective_scan_2d, set_backend, use_backend
from mmvmamba.ops.arguments import DTYPES
from mmvmamba.ops.backend import override_backend
from mmvmamba.ops.scan.backends import SCAN
from mmvmamba.ops.scan.traversal import CODES

from .cases import scan_inputs, value_and_grads

ROOT = Path(__file__).parents[2]


def run(*command, **environment):
    environment = {**os.environ, 'PYTHONPATH': str(ROOT), **environment}
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, cwd=ROOT, env=environment)


@pytest.fixture
def spy(monkeypatch):
    """A backend defined by one record, which logs its calls and computes like 'chunked'."""
    calls = []

    def noting(name):
        def function(*arguments):
            calls.append(name)
            return getattr(SCAN.backends['chunked'], name)(*arguments)

        return function

    record = dataclasses.replace(
        SCAN.backends['chunked'], name='spy', traceable=False, forward=noting('forward'), backward=noting('backward')
    )
    monkeypatch.setitem(SCAN.backends, 'spy', record)
    return calls


def test_unknown_or_unavailable_backends_are_rejected():
    with pytest.raises(ValueError, match="'cuda'.*choose from auto, native"):
        use_backend('cuda')
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError, match="'mamba_ssm' cannot run here"):
            use_backend('mamba_ssm')


@pytest.mark.parametrize('value, name', [('', 'auto'), ('chunked', 'chunked'), ('blocked', 'chunked')])
def test_environment_variable_selects_the_backend(value, name):
    done = run('-c', 'from mmvmamba.ops import current_backend; print(current_backend())', MMVMAMBA_SCAN=value)
    assert done.stdout.split() == [name], done.stderr


def test_one_record_is_a_backend(spy):
    inputs = scan_inputs(1, 3, 4, 5, 2, K=4)
    expected = value_and_grads(selective_scan_2d, inputs)
    with use_backend('spy'):
        found = value_and_grads(selective_scan_2d, inputs)
    torch.testing.assert_close(found, expected)
    assert spy == ['forward', 'backward']


def test_the_choice_at_forward_holds_for_the_backward(spy):
    inputs = {name: t.requires_grad_() for name, t in scan_inputs(1, 3, 4, 5, 2, K=4).items() if t is not None}
    with use_backend('spy'):
        inside = selective_scan_2d(**inputs)
    outside = selective_scan_2d(**inputs)
    inside.sum().backward()
    with use_backend('spy'):
        outside.sum().backward()
    assert spy == ['forward', 'backward']


def test_with_block_applies_to_its_own_thread():
    seen, inside, done = [], threading.Event(), threading.Event()

    def other():
        with use_backend('chunked'):
            inside.set()
            done.wait(10)
            seen.append(current_backend())

    thread = threading.Thread(target=other)
    thread.start()
    inside.wait(10)
    assert current_backend() == 'auto'
    with use_backend('reference'):
        assert current_backend() == 'reference'
        with use_backend('auto'):
            assert current_backend() == 'auto'
        done.set()
        thread.join()
        assert current_backend() == 'reference'
    assert seen == ['chunked'] and current_backend() == 'auto'


def test_deprecated_call_applies_to_the_process():
    try:
        use_backend('chunked')
        seen = []
        thread = threading.Thread(target=lambda: seen.append(current_backend()))
        thread.start()
        thread.join()
        assert seen == ['chunked'] and current_backend() == 'chunked'
        with use_backend('reference'):
            assert current_backend() == 'reference'
        assert current_backend() == 'chunked'
    finally:
        use_backend('auto')


def test_set_backend_applies_to_the_process():
    try:
        set_backend('chunked')
        seen = []
        thread = threading.Thread(target=lambda: seen.append(current_backend()))
        thread.start()
        thread.join()
        with use_backend('reference'):
            assert current_backend() == 'reference'
        assert seen == ['chunked'] and current_backend() == 'chunked'
    finally:
        set_backend('auto')
    assert current_backend() == 'auto'


def test_blocked_is_an_alias_of_chunked():
    with use_backend('blocked'):
        assert current_backend() == 'chunked'


@pytest.mark.parametrize('name', ['fastest', 'mamba_ssm'])
def test_unusable_environment_variable_fails_at_the_first_scan(name):
    """Importing the package and the diagnosis work, and the diagnosis reports the variable."""
    diagnosis = run('-m', 'mmvmamba', MMVMAMBA_SCAN=name)
    assert diagnosis.returncode == 0, diagnosis.stderr
    assert '(selected: none; The environment variable MMVMAMBA_SCAN is not usable: ' in diagnosis.stdout
    code = """
import torch
from mmvmamba import VMamba
from mmvmamba.ops import set_backend
model = VMamba(arch=dict(dims=8, depths=(1, 1, 1, 1)))
try:
    model(torch.randn(1, 3, 32, 32))
except RuntimeError as error:
    print(error)
set_backend('auto')
print(len(model(torch.randn(1, 3, 32, 32))))
"""
    first, second = run('-c', code, MMVMAMBA_SCAN=name).stdout.splitlines()
    assert 'The environment variable MMVMAMBA_SCAN is not usable: ' in first and name in first
    assert second == '4'


def test_one_object_in_two_with_blocks():
    chunked = use_backend('chunked')
    try:
        with chunked, use_backend('reference'):
            with chunked:
                assert current_backend() == 'chunked'
            assert current_backend() == 'reference'
    finally:
        use_backend('auto')


def test_override_is_invisible_to_other_threads():
    seen, done = set(), threading.Event()

    def look():
        while not done.is_set():
            seen.add(current_backend())

    thread, interval = threading.Thread(target=look), sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        thread.start()
        for _ in range(5000):
            with override_backend('reference'):
                assert current_backend() == 'reference'
    finally:
        done.set()
        thread.join()
        sys.setswitchinterval(interval)
    assert seen == {'auto'}


@pytest.mark.skipif(native.unavailable_reason() is not None, reason='no native scan')
def test_auto_chooses_by_device_and_dtype():
    assert SCAN.find_backend('cpu', [torch.float32, torch.bfloat16]) == (SCAN.backends['native'], None)
    assert SCAN.find_backend('cpu', [torch.float32, torch.float64]) == (SCAN.backends['chunked'], None)
    chosen, loss = SCAN.find_backend('mps', [torch.float32])
    assert chosen.name == 'chunked' and 'no kernel for mps' in loss
    with pytest.raises(ValueError, match="'native' does not support float64"):
        SCAN.find_backend('cpu', [torch.float64], 'native')
    with pytest.raises(ValueError, match="'native' does not support mps tensors"):
        SCAN.find_backend('mps', [torch.float32], 'native')


def test_choose_returns_the_reason_for_the_fallback(monkeypatch):
    missing = dataclasses.replace(SCAN.backends['native'], unavailable_reason=lambda: 'It is not built.')
    monkeypatch.setitem(SCAN.backends, 'native', missing)
    assert SCAN.find_backend('cpu', [torch.float32]) == (SCAN.backends['chunked'], 'It is not built.')


@pytest.mark.skipif(
    not hasattr(backend_registration, '_setup_privateuseone_for_python_backend'),
    reason='this PyTorch makes no device in Python',
)
def test_other_devices_use_the_chunked_scan():
    done = run('-m', 'tests.test_ops.toy_device')
    assert done.returncode == 0, done.stderr
    assert done.stderr.count('The scan runs in plain PyTorch on toy') == 1, done.stderr


def test_diagnosis_lists_what_auto_selects():
    done = run('-m', 'mmvmamba')
    line = next(line for line in done.stdout.splitlines() if line.startswith('  cpu'))
    assert (
        line.split()[1:]
        == ' '.join(
            f'{str(dtype).removeprefix("torch.")} {SCAN.find_backend("cpu", [dtype])[0].name},' for dtype in DTYPES
        )
        .strip(',')
        .split()
    )


@pytest.mark.skipif(native.unavailable_reason() is not None, reason='no native scan')
def test_diagnosis_has_no_side_effects():
    code = """
from unittest import mock
from mmvmamba.ops.native import heap
with mock.patch.object(heap.torch, 'empty') as empty:
    import mmvmamba.__main__
    mmvmamba.__main__.main()
    print('allocated', empty.call_count)
"""
    assert 'allocated 0' in run('-c', code).stdout


def test_traversal_codes_match_the_kernels():
    header = Path(mmvmamba.ops.native.__file__).with_name('scan.h').read_text()
    names = ('SCAN_COLUMN', 'SCAN_REVERSED')
    column, reversed_ = (int(re.search(rf'CONSTANT\({name}, (\d+)', header)[1]) for name in names)
    assert CODES == {name: column * ('column' in name) + reversed_ * ('reversed' in name) for name in TRAVERSALS}


def test_traversal_order_matches_released_files():
    assert CROSS == ('row', 'column', 'row_reversed', 'column_reversed')
