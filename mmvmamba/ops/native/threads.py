"""The number of threads of the kernels, also in a process that was forked.

OpenMP keeps a pool of threads once it has computed in parallel. A fork copies the record of the pool but not its
threads, so that a child would wait for them forever in its first parallel region, in our kernels as in PyTorch's.
PyTorch's data loaders compute with one thread in their workers; so does a child of a process that has used ours.
"""

import os

import torch

_has_pool = False


def thread_count() -> int:
    """PyTorch's number of threads, for a kernel that is about to start them."""
    global _has_pool
    threads = torch.get_num_threads()
    _has_pool = _has_pool or threads > 1
    return threads


def _in_child() -> None:
    if _has_pool:
        torch.set_num_threads(1)


if hasattr(os, 'register_at_fork'):  # Windows has no fork
    os.register_at_fork(after_in_child=_in_child)
