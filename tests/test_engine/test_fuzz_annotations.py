"""A small sample of the fuzzer of annotation files, in a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_each_file_gives_a_right_result_or_one_sentence():
    for library in ('mmdet', 'mmseg', 'mmpretrain', 'pycocotools'):
        pytest.importorskip(library)
    command = [sys.executable, '-m', 'tests.test_engine.fuzz_annotations', '--cases', '250', '--seed', '3']
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    assert '250 cases of seed 3' in done.stdout and ' 0 faults' in done.stdout
