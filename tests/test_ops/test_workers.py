"""Tests processes that scan: data loader workers, and forks of a process that has scanned."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from mmvmamba.ops import current_backend, native, selective_scan_2d, use_backend

from .cases import scan_inputs


class Scans(Dataset):
    """Item i is the scan of inputs with seed i, and the name of the selected backend."""

    def __len__(self):
        return 2

    def __getitem__(self, index):
        inputs = scan_inputs(1, 9, 11, 5, 2, K=4, rank=2, dtype=torch.float32, seed=index)
        return selective_scan_2d(**inputs), current_backend()


@pytest.mark.slow
@pytest.mark.parametrize('method', ['spawn', 'forkserver'])
def test_workers_scan(method):
    expected = [Scans()[index][0] for index in range(2)]  # the kernel's threads have already run in this process
    with use_backend('chunked'):  # applies to this process only
        loader = DataLoader(Scans(), batch_size=None, num_workers=1, multiprocessing_context=method, timeout=120)
        found = list(loader)
    assert torch.equal(torch.stack([y for y, _ in found]), torch.stack(expected))
    assert [name for _, name in found] == ['auto'] * 2


FORK = """
import os, signal, sys
import torch
torch.set_num_threads(int(sys.argv[1]))
from mmvmamba import VMamba
from mmvmamba.ops import conv_silu_2d, selective_scan_2d
from tests.test_ops.cases import scan_inputs

inputs = scan_inputs(2, 24, 24, 37, 2, K=4, dtype=torch.float32)
weight, images = torch.ones(37, 1, 3, 3), torch.ones(1, 3, 256, 256)
model = VMamba(dict(dims=16, depths=(1, 1, 1, 1))).eval()

def compute():
    with torch.no_grad():
        results = [conv_silu_2d(inputs['x'], weight), *model(images)]
    x = inputs['x'].clone().requires_grad_()
    return [*results, *torch.autograd.grad(selective_scan_2d(**inputs | dict(x=x)).sum(), x)]

def forked(check):
    child = os.fork()
    if child == 0:
        signal.alarm(40)  # ends a child that waits for threads
        try:
            os._exit(0 if check() else 1)
        finally:
            os._exit(2)
    return os.waitpid(child, 0)[1] == 0

expected = compute() if 'compute' in sys.argv else None

def child():
    same = expected is None or all(map(torch.equal, compute(), expected))
    return same and torch.get_num_threads() == int(sys.argv[2])

assert forked(child), 'child'
assert forked(lambda: child() and forked(child)), 'grandchild'
assert torch.get_num_threads() == int(sys.argv[1])
"""


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='no fork on this system')
@pytest.mark.skipif(native.unavailable_reason() is not None, reason='no native scan')
@pytest.mark.parametrize('arguments', ['2 1 compute', '2 2', '1 1 compute'])
def test_a_forked_process_computes_with_one_thread_if_its_parent_has_computed_with_several(arguments):
    """Scans, their gradients and whole backbones; it waited forever for threads that a fork does not copy."""
    root = Path(__file__).parents[2]
    environment = {**os.environ, 'OMP_NUM_THREADS': '2'}
    done = subprocess.run(
        [sys.executable, '-c', FORK, *arguments.split()], cwd=root, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
