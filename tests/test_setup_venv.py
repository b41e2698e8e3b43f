"""tools/setup_venv.sh, with a stand-in for Python that records its arguments and installs nothing."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from .test_check_gpu import WHEELS, program

ROOT = Path(__file__).parents[1]
FILES = ('tools/setup_venv.sh', 'tools/check_gpu.sh', 'requirements.lock', 'tests/requirements_peft.lock')

# pip wheel builds mmcv for the GPU unless CUDA_VISIBLE_DEVICES hides it.
PYTHON = r"""
printf '%s\n' "$*" | head -n 1 >>calls
case $* in
    *version_info*) echo 3.11 ;;
    *sysconfig*) echo . ;;
    '-m venv .venv') mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
    '-m pip freeze'*) test ! -f .venv/mmcv || echo onedl-mmcv==2.3.6 ;;
    '- cuda' | '- cpu')
        cp .venv/mmcv .venv/mmcv_target
        test "$2" = cpu || grep -q cuda .venv/mmcv ;;
    '-m pip wheel '*)
        if [ "${CUDA_VISIBLE_DEVICES-all}" ]; then echo cuda; else echo cpu; fi >built ;;
    '-m pip install --no-index '*) test -f built && mv built .venv/mmcv ;;
esac
"""


@pytest.fixture
def setup(tmp_path):
    """Runs the script in a copy of its inputs, and returns its output and what it called Python with."""
    for file in FILES:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / file, tmp_path / file)
    for file in ('pyproject.toml', 'Python.h'):
        (tmp_path / file).touch()
    (tmp_path / 'bin').mkdir()
    for name in ('awk bash cat cp dirname find flock grep head mkdir mv nproc rm sed sha256sum sort tail tee touch tr '
                 'test true').split():  # fmt: skip
        (tmp_path / 'bin' / name).symlink_to(shutil.which(name))
    program(tmp_path / 'bin/python3', PYTHON)
    program(tmp_path / 'bin/ldconfig', 'echo libGL.so.1 libgthread-2.0.so.0')

    def run(status=0, **variables):
        calls = tmp_path / 'calls'
        calls.unlink(missing_ok=True)
        environment = {'PATH': str(tmp_path / 'bin'), 'CXX': 'true', 'CUDA_HOME': str(tmp_path), **variables}
        command = ['bash', 'tools/setup_venv.sh']
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == status, done.stdout + done.stderr
        return done.stderr, calls.read_text() if calls.exists() else ''

    return run


def add_gpu(folder, driver='580.65.06'):
    answers = f'case $1 in -L) echo GPU 0: H100;; *compute_cap) echo 9.0;; *) echo {driver};; esac'
    program(folder / 'bin/nvidia-smi', answers)
    program(folder / 'bin/nvcc', 'echo release 13.0, V13.0.88')


def requirements(folder, name):
    return set(re.findall(r'^([\w-]+)==', (folder / '.venv' / name).read_text(), re.M))


def installed_nothing(calls):
    return not re.search(r'pip (install|wheel)', calls)


def test_everything_comes_from_the_lock_file_and_a_second_run_does_nothing(setup, tmp_path):
    _, calls = setup()
    assert '--index-url' not in calls and '+cpu' not in calls
    assert {'torch', 'torchvision', 'triton', 'nvidia-cublas'} <= requirements(tmp_path, 'wheels.txt')
    locked = set(re.findall(r'^([\w-]+)==', (ROOT / 'requirements.lock').read_text(), re.M))
    assert requirements(tmp_path, 'all.txt') == locked
    assert installed_nothing(setup()[1])


def test_another_index_provides_torch_torchvision_and_what_torch_needs(setup, tmp_path):
    _, calls = setup(TORCH_INDEX_URL=f'{WHEELS}/cpu')
    assert f'--index-url {WHEELS}/cpu torch==2.11.0+cpu torchvision==0.26.0+cpu' in calls
    for name in ('wheels.txt', 'all.txt'):
        listed = requirements(tmp_path, name)
        assert not [each for each in listed if re.match('torch|triton|nvidia|cuda', each)]
        assert {'numpy', 'pillow', 'sympy', 'timm'} <= listed


def test_the_index_is_kept_until_another_is_named(setup, tmp_path):
    setup(TORCH_INDEX_URL=f'{WHEELS}/cpu')
    assert installed_nothing(setup()[1])
    assert installed_nothing(setup(TORCH_INDEX_URL=f'{WHEELS}/cpu')[1])
    _, calls = setup(TORCH_INDEX_URL='')
    assert '-m venv .venv' in calls and '--index-url' not in calls
    assert 'torch' in requirements(tmp_path, 'wheels.txt')


def test_mmcv_for_cpus_is_rebuilt_when_a_gpu_appears(setup, tmp_path):
    setup()
    assert (tmp_path / '.venv/mmcv').read_text() == 'cpu\n'
    add_gpu(tmp_path)
    (tmp_path / 'bin/nvcc').rename(tmp_path / 'nvcc')
    assert 'found no nvcc' in setup(status=1)[0]
    assert installed_nothing(setup(CUDA_VISIBLE_DEVICES='')[1])

    (tmp_path / 'nvcc').rename(tmp_path / 'bin/nvcc')
    _, calls = setup(CUDA_HOME='')
    assert 'pip wheel' in calls and '-m venv' not in calls
    assert (tmp_path / '.venv/mmcv').read_text() == 'cuda\n'
    assert installed_nothing(setup()[1])


def test_a_build_for_the_cpu_beside_a_gpu_is_kept_until_force_cuda(setup, tmp_path):
    add_gpu(tmp_path)
    setup(CUDA_HOME='', CUDA_VISIBLE_DEVICES='')
    assert (tmp_path / '.venv/mmcv').read_text() == 'cpu\n'
    assert installed_nothing(setup(CUDA_HOME='')[1])
    setup(CUDA_HOME='', FORCE_CUDA='1')
    assert (tmp_path / '.venv/mmcv').read_text() == 'cuda\n'


def test_mmcv_for_cpus_is_rebuilt_for_a_gpu_elsewhere(setup, tmp_path):
    setup()
    program(tmp_path / 'bin/nvcc', 'echo release 13.0, V13.0.88')
    setup(CUDA_HOME='', FORCE_CUDA='1', TORCH_CUDA_ARCH_LIST='9.0')
    assert (tmp_path / '.venv/mmcv').read_text() == 'cuda\n'


def test_an_old_driver_ends_the_setup_before_anything_is_installed(setup, tmp_path):
    add_gpu(tmp_path, driver='535.183.01')
    message, calls = setup(status=1)
    assert message.count('\n') == 1 and 'found NVIDIA driver 535.183.01' in message
    assert installed_nothing(calls) and not (tmp_path / '.venv').exists()
