"""The selective scan in 2-D and 1-D, and its backends."""

from . import flops  # noqa: F401  (teaches FLOP counters the operator)
from .backend import current_backend, use_backend
from .selective_scan_1d import selective_scan
from .selective_scan_2d import selective_scan_2d
from .traversal import BIDIRECTIONAL, CROSS, TRAVERSALS, UNIDIRECTIONAL

__all__ = [
    'BIDIRECTIONAL',
    'CROSS',
    'TRAVERSALS',
    'UNIDIRECTIONAL',
    'current_backend',
    'selective_scan',
    'selective_scan_2d',
    'use_backend',
]
