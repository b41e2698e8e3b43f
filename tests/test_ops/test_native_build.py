"""Tests that the native kernels are built, match this processor, and share the loader's argument structs."""

import ctypes
import os
import platform
import shutil
from pathlib import Path

import pytest
import torch

import mmvmamba
from mmvmamba.ops import native
from mmvmamba.ops.native import library

from .test_native import CROSS, case, run_native

CHECKOUT = Path(mmvmamba.__file__).parents[1].joinpath('setup.py').exists()
COMPILER = any(shutil.which(name) for name in (os.environ.get('CC'), 'cc', 'gcc', 'clang') if name)
CAPABILITIES = {'AVX512': 'avx512', 'AVX2': 'avx2'}


@pytest.mark.skipif(not (CHECKOUT and COMPILER), reason='no checkout, or no C compiler on the path')
def test_kernels_are_built():
    assert native.unavailable_reason() is None


built = pytest.mark.skipif(native.unavailable_reason() is not None, reason='the native scan is not built')


@built
@pytest.mark.skipif(platform.machine() != 'x86_64', reason='one set of kernels')
def test_loader_selects_the_instruction_set_of_the_processor(monkeypatch):
    monkeypatch.delenv('MMVMAMBA_ISA', raising=False)
    capability = torch.backends.cpu.get_cpu_capability()
    assert native.info().split(',')[0] == CAPABILITIES.get(capability, 'baseline')


@pytest.fixture
def loading_anew():
    library.load.cache_clear()
    yield
    library.load.cache_clear()


@built
@pytest.mark.usefixtures('loading_anew')
@pytest.mark.parametrize('struct', ['ScanMap', 'ScanArgs', 'ConvArgs'])
def test_mismatching_struct_fields_raise_a_one_sentence_error(struct, monkeypatch):
    fields = list(getattr(library, struct)._fields_)
    fields[1], fields[2] = fields[2], fields[1]  # fields of the same size
    monkeypatch.setattr(library, struct, type(struct, (ctypes.Structure,), dict(_fields_=fields)))
    assert 'built from other sources; build it again.' in native.unavailable_reason()


@pytest.mark.usefixtures('loading_anew')
def test_missing_or_damaged_object_raises_a_one_sentence_error(monkeypatch, tmp_path):
    monkeypatch.setattr(library, 'OBJECT', tmp_path / '_scan.so')
    assert 'not built' in native.unavailable_reason()
    (tmp_path / '_scan.so').write_bytes(b'not an object')
    library.load.cache_clear()
    assert 'does not load' in native.unavailable_reason()
    with pytest.raises(RuntimeError, match='does not load'):
        run_native(*case(1, 2, 2, 2, 1, CROSS))
