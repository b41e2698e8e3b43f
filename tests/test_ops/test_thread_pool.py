"""Tests that the forward kernels give identical results on the threads of a caller and on those of OpenMP."""

import ctypes
import random
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from mmvmamba.ops import native
from mmvmamba.ops.conv import native as native_conv
from mmvmamba.ops.native.library import KernelLibrary, load
from mmvmamba.ops.scan import native as native_scan
from mmvmamba.ops.scan.scan_inputs import ScanInputs

from . import test_native

pytestmark = pytest.mark.skipif(native.unavailable_reason() is not None, reason=str(native.unavailable_reason()))

JOB = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)


class ScanPool(ctypes.Structure):
    """The C struct scan_pool, on Python threads that take the jobs in random order."""

    RUN = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, JOB, ctypes.c_void_p)
    _fields_ = [('run', RUN)]

    def __init__(self, threads):
        super().__init__(self.RUN(self._run))
        self.executor, self.jobs = ThreadPoolExecutor(threads), 0

    def _run(self, _, count, job, data):
        self.jobs += count
        list(self.executor.map(lambda index: job(data, index), random.sample(range(count), count)))


class LibraryOnPool:
    """Calls the kernels with a pool."""

    def __init__(self, library: KernelLibrary, pool: ScanPool, threads: int):
        self.library, self.pool, self.threads = library, pool, threads
        self.channel_unit = library.channel_unit

    def __getattr__(self, function):
        def call(arguments):
            arguments.pool, arguments.threads = ctypes.addressof(self.pool), self.threads
            return getattr(self.library, function)(arguments)

        return call


@pytest.fixture(params=[1, 4])
def on_pool(request, monkeypatch):
    """Returns a function that makes the kernels use a pool of so many threads, and returns the pool."""

    def switch():
        pool = ScanPool(request.param)
        library = LibraryOnPool(load()[0], pool, request.param)
        monkeypatch.setattr('mmvmamba.ops.native.call.load', lambda: (library, None))
        return pool

    return switch


@pytest.mark.parametrize('name', test_native.CASES)
def test_scan_on_a_pool_equals_the_scan_on_openmp(name, on_pool):
    inputs, codes, softplus = test_native.case(**test_native.CASES[name])
    inputs = ScanInputs(*inputs, codes, softplus)
    expected = native_scan.selective_scan_2d(inputs, torch.float32)
    pool = on_pool()
    assert torch.equal(native_scan.selective_scan_2d(inputs, torch.float32), expected)
    assert pool.jobs > 0


@pytest.mark.parametrize('shape', [(1, 5, 7, 17), (2, 40, 33, 40), (1, 3, 1500, 96)])
@pytest.mark.parametrize('rows, columns, left', [(3, 3, [1]), (1, 4, [3, 0])])
def test_convolution_on_a_pool_equals_the_convolution_on_openmp(shape, rows, columns, left, on_pool):
    torch.manual_seed(0)
    x, d, K = torch.randn(shape), shape[-1], len(left)
    arguments = x, torch.randn(K, d, rows, columns), torch.randn(K, d), left
    expected = native_conv.conv_silu(*arguments)
    pool = on_pool()
    assert torch.equal(native_conv.conv_silu(*arguments), expected)
    assert pool.jobs > 0
