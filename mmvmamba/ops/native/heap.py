"""Makes the C library reuse the memory of freed tensors."""

from functools import cache

import torch

LARGEST = 32 * 2**20  # bytes: glibc's DEFAULT_MMAP_THRESHOLD_MAX on 64-bit systems


@cache
def keep_freed_memory() -> None:
    """Makes glibc keep up to 64 MiB of freed heap memory instead of returning it to the system in every block.

    The system clears returned memory page by page, which costs up to 10 % of a network's run time. glibc raises its
    thresholds when a program frees an allocation of up to 32 MiB that was mapped directly from the system. This
    function therefore allocates and frees such a block without touching its pages. It has no effect if the thresholds
    are set explicitly (for example with MALLOC_TRIM_THRESHOLD_) or if the C library is not glibc. See mallopt(3),
    M_MMAP_THRESHOLD.
    """
    torch.empty(LARGEST - 2**14, dtype=torch.uint8, device='cpu')  # 16 KiB less, for the block's header and alignment
