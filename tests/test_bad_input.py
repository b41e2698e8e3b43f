"""A part of the calls of `tests/bad_input`, in a process of its own: a crash is a failure like any other."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.bad_input.outcome import complaint


def test_every_call_is_right_or_refused():
    pytest.importorskip('hypothesis')
    command = [sys.executable, '-m', 'tests.bad_input', '--cases', '800', '--seed', '1']
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    assert '800 cases' in done.stdout and '0 faults' in done.stdout


def of(call, *names):
    with pytest.raises(Exception) as caught:  # noqa: PT011  (what it is, is the question)
        call()
    return complaint(caught.value, names)


def test_what_a_refusal_is():
    import torch

    from mmvmamba.models.validation import check_choice, check_count
    from mmvmamba.ops import reference, use_backend
    from mmvmamba.ops.scan_inputs import ScanInputs

    assert of(lambda: check_count('depth', 0), 'depth') == ''
    assert 'names none of' in of(lambda: check_count('depth', 0), 'width')
    assert 'not one sentence' in of(lambda: check_choice('depth', 0, ['one. Two', 'three']))
    assert 'not raised by the package' in of(
        lambda: reference.selective_scan_2d(ScanInputs(*[torch.ones(2)] * 8, [0], True))
    )
    assert 'not raised by the package' in of(lambda: int('x'))
    assert of(lambda: use_backend('x')) == ''
