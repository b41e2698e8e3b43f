"""Tests data loader workers that run scans, with each start method that does not copy the parent's threads."""

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from mmvmamba.ops import current_backend, selective_scan_2d, use_backend

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
    with use_backend('blocked'):  # applies to this process only
        loader = DataLoader(Scans(), batch_size=None, num_workers=1, multiprocessing_context=method, timeout=120)
        found = list(loader)
    assert torch.equal(torch.stack([y for y, _ in found]), torch.stack(expected))
    assert [name for _, name in found] == ['auto'] * 2
