"""Tests that the polynomial coefficients in the kernels match those that benchmarks/polynomials.py derives."""

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NATIVE, ROWWISE, TRITON = (
    ROOT / 'mmvmamba' / 'ops' / name
    for name in ('native/simd.inc', 'native/rowwise.inc', 'triton_kernels/device_functions.py')
)
NUMBER = re.compile(r'([+-] )?(-?\d+\.\d*)f?\b')


def polynomials():
    specification = importlib.util.spec_from_file_location('polynomials', ROOT / 'benchmarks' / 'polynomials.py')
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def numbers(text):
    """Returns the numbers in order; `- 1.5` is negative."""
    return [-float(value) if sign == '- ' else float(value) for sign, value in NUMBER.findall(text)]


@pytest.mark.parametrize(
    ('function', 'path', 'begin', 'end', 'left_out', 'largest_error'),
    [
        ('exp2', NATIVE, 'vf q =', '#if', 0, 2**-24),
        ('log1p', NATIVE, 'vf p =', 'return', 1, 2**-24),  # a factor u precedes the polynomial
        ('log1p', TRITON, 'p = u *', 'return', 1, 2**-24),
        ('gelu', ROWWISE, 'vf q =', 'return', 1, 1.1e-5),  # a factor t precedes it; the error counts where Phi is small
    ],
)
def test_coefficients_match_the_derivation(function, path, begin, end, left_out, largest_error):
    coefficients, error = getattr(polynomials(), function)()
    code = path.read_text().split(begin, 1)[1].split(end, 1)[0]
    assert numbers(code) == coefficients[left_out:][::-1]
    assert error < largest_error
