"""Runs the operators for onnxruntime, on the kernels of every processor, with memory and arithmetic errors detected.

`tests/test_ops/sanitize.py` runs the kernels of the other instruction sets.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mmvmamba import export
from mmvmamba.ops import native
from tests.test_ops.elsewhere import FLAGS
from tests.test_ops.sanitize import CHECKERS, SETS

from .single_node import CONV, SCAN  # noqa: F401  (without onnx, the tests are skipped)

KERNELS, OPERATORS = Path(native.__file__).parent, Path(export.__file__).with_name('native')

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not shutil.which('gcc'), reason='needs gcc')]


def compile_objects(folder, sources):
    for source in sources:
        own = SETS.get(source.stem.removeprefix('variant_'), ())
        checks = CHECKERS['address'].flags if not own else ('-O0',)
        flags = ['-O1', '-g', '-fPIC', '-Wno-unknown-pragmas', *checks, *own]
        command = ['gcc', *FLAGS, *flags, '-I', KERNELS, '-I', OPERATORS, '-c', source]
        subprocess.run([*command, '-o', folder / f'{source.stem}.o'], check=True)


def link(folder, library):
    subprocess.run(['gcc', '-shared', *CHECKERS['address'].flags, *folder.glob('*.o'), '-o', library], check=True)
    return library


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('objects')
    compile_objects(folder, [*KERNELS.glob('*.c'), *OPERATORS.glob('*.c')])
    return folder


def fuzz(library):
    """Runs the fuzzer in a process that loads the sanitizers first. Leaks of Python are not of interest."""
    names = ('libasan.so', 'libubsan.so')
    found = [
        subprocess.run(['gcc', f'-print-file-name={name}'], capture_output=True, text=True).stdout.strip()
        for name in names
    ]
    environment = dict(LD_PRELOAD=' '.join(found), ASAN_OPTIONS='detect_leaks=0', MMVMAMBA_ISA='baseline')
    command = [sys.executable, '-m', 'tests.test_ort_operators.fuzz', '--cases', '150', '--library', library]
    root = Path(__file__).parents[2]
    return subprocess.run(command, cwd=root, env=os.environ | environment, capture_output=True, text=True)


def test_sanitizers_find_no_fault(folder, tmp_path):
    done = fuzz(link(folder, tmp_path / 'operators.so'))
    assert done.returncode == 0, done.stderr
    assert 'right' in done.stdout and 'refused' in done.stdout


def test_sanitizers_find_a_buffer_that_is_too_short(folder, tmp_path):
    """Without this test, the silence of the other one would mean nothing."""
    correct = (OPERATORS / 'ort_selective_scan.c').read_text()
    faulty = correct.replace('malloc((size_t)(positions * padded)', 'malloc((size_t)(positions * d)')
    assert faulty != correct
    shutil.copytree(folder, tmp_path / 'objects')
    tmp_path.joinpath('ort_selective_scan.c').write_text(faulty)
    compile_objects(tmp_path / 'objects', [tmp_path / 'ort_selective_scan.c'])
    done = fuzz(link(tmp_path / 'objects', tmp_path / 'operators.so'))
    assert done.returncode != 0 and 'heap-buffer-overflow' in done.stderr
