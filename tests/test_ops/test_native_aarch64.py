"""Runs the kernels built for 64-bit Arm in QEMU on the cases of test_native.py and test_depthwise_conv.py.

Needs Debian's gcc-aarch64-linux-gnu and qemu-user.
"""

import shutil

import pytest
import torch

from mmvmamba.ops.conv.backends import CONV
from mmvmamba.ops.native import call

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
    monkeypatch.setattr(call, 'load', lambda: (Elsewhere(EMULATOR, program), None))


@pytest.mark.parametrize('name', test_native.CASES)
def test_scan_matches_the_reference(name):
    test_native.test_kernels_match_the_reference(name, 'neon')


@pytest.mark.parametrize('name', test_depthwise_conv.CASES)
def test_convolution_matches_float64(name):
    test_depthwise_conv.test_kernels_match_float64(name, CONV.backends['native'])


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_16_bit_maps_match_the_reference(dtype):
    test_native.test_16_bit_maps(dtype, 5, 'neon')
    test_depthwise_conv.test_16_bit_results_are_rounded_once(dtype, CONV.backends['native'])
