"""The native CPU kernels, in plain C and loaded with ctypes. They run below autograd on tensors already validated."""

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
