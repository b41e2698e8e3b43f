"""What the C library does with the memory of freed tensors."""

from functools import cache

import torch

LARGEST = 32 * 2**20  # bytes: glibc's DEFAULT_MMAP_THRESHOLD_MAX on 64-bit systems


@cache
def keep_freed_memory() -> None:
    """Let glibc keep up to 64 MiB of freed heap, which it otherwise gives back and gets anew in every block.

    The system clears such memory page by page, which is up to a tenth of a network's time. glibc moves its thresholds
    itself whenever a block of up to 32 MiB is freed that came straight from the system; so this frees one, that nobody
    has touched. Where these thresholds are set (MALLOC_TRIM_THRESHOLD_ and others), or with another C library, it does
    nothing. See mallopt(3), M_MMAP_THRESHOLD.
    """
    torch.empty(LARGEST - 2**14, dtype=torch.uint8, device='cpu')  # 16 KiB less, for its header and alignment
