"""Data loaders whose workers scan, started in each of the ways that do not copy the parent's threads."""

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from mmvmamba.ops import current_backend, selective_scan_2d, use_backend

from .cases import scan_inputs


class Scans(Dataset):
    """Item i is the scan of inputs of seed i, and the name of the backend that was chosen for it."""

    def __len__(self):
        return 2

    def __getitem__(self, index):
        inputs = scan_inputs(1, 9, 11, 5, 2, K=4, rank=2, dtype=torch.float32, seed=index)
        return selective_scan_2d(**inputs), current_backend()


@pytest.mark.slow
@pytest.mark.parametrize('method', ['spawn', 'forkserver'])
def test_workers_scan(method):
    expected = [Scans()[index][0] for index in range(2)]  # the kernel's threads have run in this process, too
    with use_backend('blocked'):  # stays in this one
        loader = DataLoader(Scans(), batch_size=None, num_workers=1, multiprocessing_context=method, timeout=120)
        found = list(loader)
    assert torch.equal(torch.stack([y for y, _ in found]), torch.stack(expected))
    assert [name for _, name in found] == ['auto'] * 2
