"""docker/Dockerfile: the image has what the setup needs. It is not built, which would take a network and an hour."""

import re
from pathlib import Path

from .test_check_gpu import Case, check

ROOT = Path(__file__).parents[1]
DOCKERFILE = (ROOT / 'docker/Dockerfile').read_text()


def test_image_has_the_cuda_version_of_torch(tmp_path):
    image, kind = re.search(r'^FROM nvidia/cuda:(\d+\.\d+)\S*?-(devel)-', DOCKERFILE, re.M).groups()
    runtime = re.search(r'^nvidia-cuda-runtime==(\d+\.\d+)', (ROOT / 'requirements.lock').read_text(), re.M)[1]
    assert (image, kind) == (runtime, 'devel')
    archs = re.search(r'^ARG TORCH_CUDA_ARCH_LIST="(.*)"', DOCKERFILE, re.M)[1]
    variables = {'FORCE_CUDA': '1', 'TORCH_CUDA_ARCH_LIST': archs}
    assert 'RUN FORCE_CUDA=1 ' in DOCKERFILE
    done = check(Case('docker build', 0, 'cuda', '', nvcc=image, variables=variables), tmp_path)
    assert (done.stdout, done.stderr) == ('cuda\n', '')


def test_image_has_the_system_packages_that_the_setup_requires():
    setup = (ROOT / 'tools/setup_venv.sh').read_text()
    required = set(re.findall(r' ([a-z][\w+.-]*) [\w+.-]+$', setup, re.M))
    assert {'g++', 'libgl1'} <= required
    installed = set(re.search(r'--no-install-recommends \\\n +(.*) &&', DOCKERFILE)[1].split())
    renamed = {'libglib2.0-0': 'libglib2.0-0t64'}  # in Ubuntu 24.04
    assert {renamed.get(name, name) for name in required if name.startswith(('lib', 'g++'))} <= installed
    assert {'python3', 'python3-dev', 'python3-venv'} <= installed
