"""The selective scan in 2-D and 1-D, the depthwise convolution before it, and their backends."""

from .backend import current_backend, select_from_environment, set_backend, use_backend
from .conv import flops as _conv_flops  # noqa: F401  (FLOP counters find the operators)
from .conv.conv_silu import conv_silu_1d, conv_silu_2d
from .scan import flops as _scan_flops  # noqa: F401
from .scan.scan_1d import selective_scan
from .scan.scan_2d import selective_scan_2d
from .scan.traversal import BIDIRECTIONAL, CROSS, TRAVERSALS, UNIDIRECTIONAL

__all__ = [
    'BIDIRECTIONAL',
    'CROSS',
    'TRAVERSALS',
    'UNIDIRECTIONAL',
    'conv_silu_1d',
    'conv_silu_2d',
    'current_backend',
    'selective_scan',
    'selective_scan_2d',
    'set_backend',
    'use_backend',
]

select_from_environment()
