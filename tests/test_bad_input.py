"""Runs a sample of the `tests/bad_input` calls in a subprocess, so that a crash is reported as a failure."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.bad_input.outcome import complaint


def test_every_call_returns_a_correct_result_or_a_one_sentence_error():
    pytest.importorskip('hypothesis')
    command = [sys.executable, '-m', 'tests.bad_input', '--cases', '800', '--seed', '1']
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    assert '800 cases' in done.stdout and '0 faults' in done.stdout


def complaint_about(call, *names):
    with pytest.raises(Exception) as caught:  # noqa: PT011  (any exception type is possible here)
        call()
    return complaint(caught.value, names)


def test_complaint_accepts_only_one_sentence_errors_of_the_package():
    import torch

    from mmvmamba.models.validation import check_choice, check_count
    from mmvmamba.ops import use_backend
    from mmvmamba.ops.scan import reference
    from mmvmamba.ops.scan.scan_inputs import ScanInputs

    assert complaint_about(lambda: check_count('depth', 0), 'depth') == ''
    assert 'names none of' in complaint_about(lambda: check_count('depth', 0), 'width')
    assert 'not one sentence' in complaint_about(lambda: check_choice('depth', 0, ['one. Two', 'three']))
    assert 'not raised by the package' in complaint_about(
        lambda: reference.selective_scan_2d(ScanInputs(*[torch.ones(2)] * 8, [0], True))
    )
    assert 'not raised by the package' in complaint_about(lambda: int('x'))
    assert complaint_about(lambda: use_backend('x')) == ''
