"""tools/check_gpu.sh, with programs that pretend to be nvidia-smi and nvcc."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
WHEELS = 'https://download.pytorch.org/whl'
ARCHS = {'FORCE_CUDA': '1', 'TORCH_CUDA_ARCH_LIST': '8.0;9.0+PTX'}
NO_DRIVER = "echo 'NVIDIA-SMI has failed because it could not communicate with the NVIDIA driver.'; exit 9"
NO_DEVICES = "echo 'No devices were found'; exit 6"


class Case(NamedTuple):
    name: str
    status: int
    target: str  # what the script prints: what mmcv is built for
    message: str  # a part of the line on stderr, or nothing
    smi: str | None = None  # driver version, or the body of nvidia-smi
    capability: str = '9.0'
    nvcc: str | None = None
    index: str = ''
    variables: dict[str, str] = {}


CASES = [
    # nothing to complain about
    Case('driver and nvcc fit', 0, 'cuda', '', smi='580.65.06', nvcc='13.0'),
    Case('newer driver and minor version of nvcc', 0, 'cuda', '', smi='590.44.01', nvcc='13.1'),
    Case('cu126 on an older driver', 0, 'cuda', '', smi='535.183.01', nvcc='12.4', index=f'{WHEELS}/cu126/'),
    Case('cu126 on a V100', 0, 'cuda', '', smi='580.65.06', capability='7.0', nvcc='12.6', index=f'{WHEELS}/cu126'),
    Case('CPU-only wheels', 0, 'cpu', '', index=f'{WHEELS}/cpu'),
    Case('CPU-only wheels beside a GPU', 0, 'cpu', '', smi='535.183.01', index=f'{WHEELS}/cpu'),
    Case('build for a GPU elsewhere', 0, 'cuda', '', nvcc='13.0', variables=ARCHS),
    Case('login node without devices', 0, 'cuda', '', smi=NO_DEVICES, nvcc='13.0', variables=ARCHS),
    Case('docker build without driver', 0, 'cuda', '', smi=NO_DRIVER, nvcc='13.0', variables=ARCHS),
    # notes
    Case('no GPU', 0, 'cpu', 'no GPU (nvidia-smi is not on PATH): mmcv is built for the CPU'),
    Case('no devices', 0, 'cpu', 'no GPU (nvidia-smi reports: No devices were found)', smi=NO_DEVICES),
    Case(
        'hidden GPU',
        0,
        'cpu',
        'no GPU (hidden by CUDA_VISIBLE_DEVICES=): mmcv is built for the CPU',
        smi='535.183.01',
        variables={'CUDA_VISIBLE_DEVICES': ''},
    ),
    Case(
        'hidden GPU, as -1',
        0,
        'cpu',
        'no GPU (hidden by CUDA_VISIBLE_DEVICES=-1)',
        smi='535.183.01',
        variables={'CUDA_VISIBLE_DEVICES': '-1'},
    ),
    Case('no devices, with status 0', 0, 'cpu', 'no GPU (nvidia-smi', smi="echo 'No devices were found'"),
    # errors
    Case('unknown answer of nvidia-smi', 1, '', 'nvidia-smi reports: [N/A]: repair the driver', smi="echo '[N/A]'"),
    Case(
        'driver for CUDA 12',
        1,
        '',
        f'found NVIDIA driver 535.183.01, but torch 2.11.0 for CUDA 13.0 needs 580 or later: update the driver, '
        f'or run TORCH_INDEX_URL={WHEELS}/cu126 make setup',
        smi='535.183.01',
        nvcc='12.4',
    ),
    Case('driver for CUDA 11', 1, '', f'or run TORCH_INDEX_URL={WHEELS}/cpu make setup', smi='470.256.02', nvcc='11.4'),
    Case(
        'driver for CUDA 11 and cu126',
        1,
        '',
        'for CUDA 12.6 needs 525 or later',
        smi='470.256.02',
        index=f'{WHEELS}/cu126',
    ),
    Case('broken driver', 1, '', 'could not communicate with the NVIDIA driver.: repair the driver', smi=NO_DRIVER),
    Case(
        'V100',
        1,
        '',
        f'compute capability 7.0, but torch 2.11.0 for CUDA 13.0 needs 7.5 or later: run TORCH_INDEX_URL={WHEELS}',
        smi='580.65.06',
        capability='7.0',
        nvcc='13.0',
    ),
    Case('no nvcc', 1, '', 'install the CUDA toolkit 13.x, which compiles mmcv for torch 2.11.0', smi='580.65.06'),
    Case(
        'nvcc 12',
        1,
        '',
        f'but torch 2.11.0 for CUDA 13.0 needs 13.x: set CUDA_HOME to the CUDA toolkit 13.x, which compiles mmcv for '
        f'torch 2.11.0, or run TORCH_INDEX_URL={WHEELS}/cu126 make setup',
        smi='580.65.06',
        nvcc='12.8',
    ),
    Case('nvcc 13 for cu126', 1, '', f'{WHEELS}/cu130', smi='580.65.06', nvcc='13.0', index=f'{WHEELS}/cu126'),
    Case(
        'nvcc 13 for cu126 on a driver for CUDA 12',
        1,
        '',
        'set CUDA_HOME to the CUDA toolkit 12.x, which compiles mmcv for torch 2.11.0\n',  # not: or cu130
        smi='550.54.14',
        nvcc='13.0',
        index=f'{WHEELS}/cu126',
    ),
    Case('no nvcc for a GPU elsewhere', 1, '', 'found no nvcc at', variables=ARCHS),
    Case(
        'no architectures for a GPU elsewhere',
        1,
        '',
        "FORCE_CUDA=1 without a GPU (nvidia-smi is not on PATH) needs TORCH_CUDA_ARCH_LIST, for example '8.0;9.0+PTX'",
        nvcc='13.0',
        variables={'FORCE_CUDA': '1'},
    ),
    Case('FORCE_CUDA and CPU-only wheels', 1, '', 'unset one of them', index=f'{WHEELS}/cpu', variables=ARCHS),
    Case('index without a version', 1, '', 'does not end in /cpu or /cuNNN', index='https://pypi.org/simple'),
    Case('index of CUDA 11', 1, '', 'only CUDA 12 and 13 are supported', index=f'{WHEELS}/cu118'),
]


def program(path, body):
    path.write_text(f'#!/bin/sh\n{body}\n')
    path.chmod(0o755)


def check(case, folder):
    """Runs the script where nothing else is on PATH."""
    (folder / 'bin').mkdir()
    for name in ('bash', 'dirname', 'head', 'sed', 'sort', 'tail'):
        (folder / 'bin' / name).symlink_to(shutil.which(name))
    if case.smi:
        answers = f'case $1 in *compute_cap) echo {case.capability};; *driver_version) echo {case.smi};; esac'
        program(folder / 'bin/nvidia-smi', answers if case.smi[0].isdigit() else case.smi)
    environment = {'PATH': str(folder / 'bin'), **case.variables}
    if case.nvcc:
        program(folder / 'bin/nvcc', f'echo "Cuda compilation tools, release {case.nvcc}, V{case.nvcc}.88"')
    else:
        environment['CUDA_HOME'] = str(folder / 'cuda')  # not /usr/local/cuda of this machine
    command = ['bash', ROOT / 'tools/check_gpu.sh', *filter(None, [case.index])]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize('case', CASES, ids=lambda case: case.name)
def test_target_message_and_status(case, tmp_path):
    done = check(case, tmp_path)
    assert (done.returncode, done.stdout.strip()) == (case.status, case.target), done.stderr
    if case.message:
        assert done.stderr.count('\n') == 1
        assert done.stderr.startswith('setup: ') and case.message in done.stderr
    else:
        assert not done.stderr


def test_a_wheel_of_mmcv_replaces_nvcc(tmp_path):
    version = re.search(r'^onedl-mmcv==(\S+)', (ROOT / 'requirements.lock').read_text(), re.M)[1]
    (tmp_path / f'onedl_mmcv-{version}-cp311-cp311-linux_x86_64.whl').touch()
    links = {'PIP_FIND_LINKS': f'/nowhere {tmp_path}'}
    done = check(Case('wheel', 0, 'cuda', '', smi='580.65.06', variables=links), tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, 'cuda\n', '')
