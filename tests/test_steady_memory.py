"""Tests that memory does not grow over inference and training steps; `benchmarks/steady_memory.py` runs longer."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != 'linux', reason='/proc says what is resident')
def test_memory_is_steady():
    command = [sys.executable, 'benchmarks/steady_memory.py', '--inferences', '60', '--steps', '24']
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, 'PYTHONPATH': str(ROOT)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count('MiB at first') == 4, done.stdout
