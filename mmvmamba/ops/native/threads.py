"""Chooses the number of threads of the kernels, including in forked processes.

OpenMP creates a thread pool in its first parallel region. A fork copies the pool's data structures but not its threads,
so the first parallel region of a child process, in these kernels or in PyTorch's, would wait for them forever. PyTorch
uses one thread in its data loader workers. In the same way, the children of a process that has used these kernels with
several threads use one.
"""

import os

import torch

_has_pool = False


def thread_count() -> int:
    """Returns PyTorch's number of threads and records whether a kernel is about to start a thread pool."""
    global _has_pool
    threads = torch.get_num_threads()
    _has_pool = _has_pool or threads > 1
    return threads


def _in_child() -> None:
    if _has_pool:
        torch.set_num_threads(1)


if hasattr(os, 'register_at_fork'):  # Windows has no fork
    os.register_at_fork(after_in_child=_in_child)
