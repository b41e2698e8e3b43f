"""Packages that raise when they are imported: the diagnosis and the tools report each in one line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mmvmamba.ops.import_failure import import_failure, in_one_line

ROOT = Path(__file__).parents[2]

# What binaries for another system, another PyTorch or another Python raise.
FAULTS = {
    'OSError': "raise OSError('GLIBC_2.99 not found\\n(required by x.so)')",
    'ImportError': "raise ImportError('undefined symbol: _ZN3c105')",
    'AttributeError': 'import torch; torch.no_such_attribute',
    'RuntimeError': "raise RuntimeError('operator torchvision::nms does not exist')",
    'SyntaxError': 'print "a program for Python 2"',
    'AssertionError': 'assert False',
    'KeyError': "{}['x']",
}
PACKAGES = ('selective_scan_cuda', 'triton', 'torchvision', 'mmcv', 'mmdet', 'mmseg', 'mmpretrain')


def python(folder, *command, **environment):
    environment = {**os.environ, 'PYTHONPATH': f'{folder}{os.pathsep}{ROOT}', 'CUDA_VISIBLE_DEVICES': ''} | environment
    return subprocess.run([sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True)


@pytest.fixture
def broken(tmp_path):
    """Puts packages that fail in this way in front of the installed ones."""

    def broken(fault, *packages):
        for package in packages:
            (tmp_path / package).mkdir()
            (tmp_path / package / '__init__.py').write_text(FAULTS[fault])
        (tmp_path / 'mamba_ssm').mkdir()
        (tmp_path / 'mamba_ssm/__init__.py').touch()
        return tmp_path

    return broken


@pytest.mark.parametrize('fault', FAULTS)
def test_the_diagnosis_names_every_broken_package(fault, broken):
    done = python(broken(fault, *PACKAGES), '-m', 'mmvmamba')
    assert done.returncode == 0, done.stderr
    packages, backends = done.stdout.split('Scan backends')
    for package in PACKAGES[1:]:
        [line] = [line for line in packages.splitlines() if line.split()[0] == package]
        assert f'not usable ({fault}' in line
    for backend, name in dict(mamba_ssm='mamba-ssm', triton='Triton').items():
        [line] = [line for line in backends.splitlines() if line.split()[0] == backend]
        assert f'{name} is installed, but cannot be imported ({fault}' in line
    assert 'float32 native' in backends or 'float32 blocked' in backends


@pytest.mark.parametrize('fault', ['RuntimeError', 'AssertionError'])
def test_a_tool_ends_with_one_line(fault, broken, tmp_path):
    config = 'configs/demo/mask-rcnn_vmamba-demo_fpn_coins.py'
    done = python(broken(fault, 'mmdet'), 'tools/train.py', config, '--work-dir', str(tmp_path / 'run'))
    assert done.returncode == 1
    [line] = done.stderr.strip().splitlines()[-1:]
    assert 'Traceback' not in done.stderr
    assert f'mmdet, which {config} needs, cannot be imported ({fault}' in line


def test_a_backend_by_name_says_why_it_cannot_run(broken):
    code = "from mmvmamba.ops import use_backend; use_backend('mamba_ssm')"
    done = python(broken('OSError', 'selective_scan_cuda'), '-c', code)
    message = "The scan backend 'mamba_ssm' cannot run here: mamba-ssm is installed, but cannot be imported (OSError: "
    assert message + 'GLIBC_2.99 not found (required by x.so)).' in done.stderr.splitlines()[-1]


def test_a_broken_import_runs_once_however_many_scans_ask(broken):
    """On a GPU every scan asks whether Triton can run."""
    code = (
        "from mmvmamba.ops.triton_kernels import unavailable_reason; print('--'); "
        'print([unavailable_reason() for _ in range(3)][-1])'
    )
    folder = broken('RuntimeError', 'triton')
    (folder / 'triton/__init__.py').write_text("print('imported')\nraise RuntimeError")
    done = python(folder, '-c', code)
    after = done.stdout.split('--')[1].split('\n')  # PyTorch tries by itself before
    assert after == ['', 'imported', 'Triton is installed, but cannot be imported (RuntimeError).', '']


def test_in_one_line():
    assert in_one_line(import_failure('no_such_package')) == "ModuleNotFoundError: No module named 'no_such_package'"
    assert import_failure('json', 'math') is None
    assert in_one_line(ValueError('a\n  b\tc')) == 'ValueError: a b c'
    assert in_one_line(ValueError()) == 'ValueError'
    assert len(in_one_line(ValueError('x' * 5000))) < 250
