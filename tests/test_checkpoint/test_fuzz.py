"""A minute of the fuzzer, in a process of its own: a crash is a failure like any other."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_no_file_does_harm():
    pytest.importorskip('safetensors')
    command = [sys.executable, '-m', 'tests.test_checkpoint.fuzz', '--cases', '1600', '--seed', '1']
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    assert '1600 files' in done.stdout and '0 faults' in done.stdout
