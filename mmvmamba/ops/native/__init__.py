"""The native CPU kernels, in plain C and loaded with ctypes. They run below autograd on tensors already validated."""

from ..conv.native import conv_silu, conv_silu_backward
from ..scan.native import selective_scan_2d, selective_scan_2d_backward
from .library import info, unavailable_reason

__all__ = [
    'conv_silu',
    'conv_silu_backward',
    'info',
    'selective_scan_2d',
    'selective_scan_2d_backward',
    'unavailable_reason',
]
