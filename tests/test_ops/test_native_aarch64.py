"""The kernels built for 64-bit Arm and run in QEMU, against what their own tests compare them with.

Needs Debian's gcc-aarch64-linux-gnu and qemu-user; then the cases of test_native.py and test_depthwise_conv.py run
there.
"""

import shutil

import pytest
import torch

from mmvmamba.ops import native

from . import test_depthwise_conv, test_native
from .elsewhere import Elsewhere, build

COMPILER, EMULATOR = 'aarch64-linux-gnu-gcc', 'qemu-aarch64'

pytestmark = pytest.mark.skipif(
    not (shutil.which(COMPILER) and shutil.which(EMULATOR)), reason=f'needs {COMPILER} and {EMULATOR}'
)


@pytest.fixture(scope='module')
def program(tmp_path_factory):
    return build(tmp_path_factory.mktemp('aarch64') / 'run_kernels', COMPILER, '-O2', '-fopenmp', '-static')


@pytest.fixture(autouse=True)
def _emulated(program, monkeypatch):
    for module in (native.scan, native.conv):
        monkeypatch.setattr(module, 'load', lambda: (Elsewhere(EMULATOR, program), None))


@pytest.mark.parametrize('name', test_native.CASES)
def test_scan(name):
    test_native.test_against_reference(name, 'neon')


@pytest.mark.parametrize('name', test_depthwise_conv.CASES)
def test_convolution(name):
    test_depthwise_conv.test_kernels(name, native)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_16_bit_maps(dtype):
    test_native.test_16_bit_maps(dtype, 5, 'neon')
    test_depthwise_conv.test_16_bit(dtype, native)
