"""Runs a sample of sanitize.py: the kernels that every processor supports, under AddressSanitizer."""

import shutil
from dataclasses import replace

import pytest

from mmvmamba.ops import native

from .sanitize import CHECKERS, check

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(native.unavailable_reason() is not None, reason=str(native.unavailable_reason())),
]

SAMPLE = (
    'scan, odd map',
    'scan, high rank',
    'scan, row vector, maps per traversal',
    'scan, torch.bfloat16, rank 5',
    'convolution, 3x3, several tiles and blocks',
    'convolution, causal, shorter than the taps',
    'convolution, other kernels',
)


@pytest.mark.skipif(not shutil.which('gcc'), reason='needs gcc')
def test_address_sanitizer_finds_no_fault():
    checker = CHECKERS['address']
    checker = replace(checker, flags=('-fsanitize=address',), finds=checker.finds[:3], sets=('baseline',))
    assert check('address', checker, threads=2, only=SAMPLE) == 0
