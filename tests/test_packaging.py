"""Tests the contents of the source distribution and the wheel, and that both have the same version."""

import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

import mmvmamba
from mmvmamba.ops.native import library

ROOT = Path(__file__).parents[1]
OF_A_CHECKOUT = {
    'tools/build_wheel.sh',
    'tools/check_gpu.sh',
    'tools/demo.sh',
    'tools/setup_classic.sh',
    'tools/setup_venv.sh',
}


def files(*folders):
    """Returns the relative paths of source files in these folders of the checkout."""
    found = (path.relative_to(ROOT) for folder in folders for path in ROOT.joinpath(folder).rglob('*'))
    return {
        str(path)
        for path in found
        if ROOT.joinpath(path).is_file() and path.suffix not in ('.so', '.pyc') and '.mim' not in path.parts
    }


def setup(*arguments):
    done = subprocess.run([sys.executable, 'setup.py', '-q', *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope='module')
def mim(tmp_path_factory):
    build = tmp_path_factory.mktemp('build')
    setup('egg_info', '--egg-base', str(build), 'build_py', '--build-lib', str(build))
    return build / 'mmvmamba/.mim'


def test_source_distribution_is_complete(tmp_path):
    setup('egg_info', '--egg-base', str(tmp_path), 'sdist', '--dist-dir', str(tmp_path))
    with tarfile.open(next(tmp_path.glob('*.tar.gz'))) as archive:
        names = {name.partition('/')[2] for name in archive.getnames() if archive.getmember(name).isfile()}
    wanted = files('mmvmamba', 'configs', 'demo', 'tools', 'docs') - OF_A_CHECKOUT
    pages = {'README.md', 'CHANGELOG.md', 'SECURITY.md', 'LICENSE', 'setup.py', 'pyproject.toml', 'model-index.yml'}
    assert not (wanted | pages) - names
    assert not [name for name in names if name.endswith('.so') or name.startswith('tests/')]


def test_wheel_contains_the_files_that_mim_needs(mim):
    inside = {str(path.relative_to(mim)) for path in mim.rglob('*') if path.is_file()}
    assert inside == files('configs', 'demo', 'tools') - OF_A_CHECKOUT | {'model-index.yml'}


def test_tools_run_from_the_wheel(mim, tmp_path):
    """Nothing of the checkout but the package is used."""
    done = subprocess.run(
        [sys.executable, mim / 'tools/dataset_converters/digits.py', '--help'], cwd=tmp_path, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    config = mim / 'configs/demo/mask-rcnn_vmamba-demo_fpn_coins.py'
    done = subprocess.run(
        [sys.executable, mim / 'tools/train.py', config], cwd=tmp_path, capture_output=True, text=True
    )
    assert 'does not exist, and train_dataloader' in done.stderr  # the config was read; no data is available here


def test_version_is_the_same_everywhere():
    command = [sys.executable, 'setup.py', '--version']
    project = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    latest = re.search(r'^## (\d\S*)', ROOT.joinpath('CHANGELOG.md').read_text(), re.M)[1]
    assert project == mmvmamba.__version__ == latest


PROCESS = """
import sys, types
if {without_torch}:
    sys.modules['torch'] = types.ModuleType('torch')
    sys.modules['torch'].Tensor = None
for name, path in (('mmvmamba', {package!r}), ('mmvmamba.ops', {package!r} + '/ops')):
    sys.modules[name] = types.ModuleType(name)  # the package without its imports
    sys.modules[name].__path__ = [path]
from mmvmamba.ops.native import library
print(library.load()[1])
print(*{{line.split()[-1] for line in open('/proc/self/maps') if 'omp' in line.rpartition('/')[2]}}, sep='\\n')
"""


@pytest.mark.skipif(library.load()[1] is not None, reason='the native scan is not built')
@pytest.mark.parametrize('without_torch', [False, True])
def test_kernels_use_the_openmp_runtime_already_loaded(without_torch):
    """Uses torch's runtime, whatever its file name, and no second one; without torch, the system's runtime."""
    if b'__kmpc_fork_call' in library.OBJECT.read_bytes():
        pytest.skip('built with Clang, whose code needs its own runtime')
    code = PROCESS.format(package=str(Path(mmvmamba.__file__).parent), without_torch=without_torch)
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    reason, *runtimes = done.stdout.splitlines()
    if without_torch and 'libgomp.so.1: cannot open' in reason:
        pytest.skip('no OpenMP runtime but that of torch')
    assert reason == 'None'
    assert len(runtimes) == 1


def test_import_uses_no_network():
    refuse = 'import socket\ndef refuse(*_): raise AssertionError("network")\nsocket.socket.connect = refuse\n'
    refuse += 'socket.getaddrinfo = refuse\n'
    done = subprocess.run([sys.executable, '-c', refuse + 'import mmvmamba'], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
