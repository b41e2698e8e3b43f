"""The native CPU kernels: plain C, loaded with ctypes, called below autograd on tensors already checked."""

from .conv import conv_silu, conv_silu_backward
from .library import info, unavailable_reason
from .scan import selective_scan_2d, selective_scan_2d_backward

__all__ = [
    'conv_silu',
    'conv_silu_backward',
    'info',
    'selective_scan_2d',
    'selective_scan_2d_backward',
    'unavailable_reason',
]
