"""The native CPU scan: plain C kernels, loaded with ctypes, called below autograd on tensors already checked."""

from .library import info, unavailable_reason
from .scan import selective_scan_2d, selective_scan_2d_backward

__all__ = ['info', 'selective_scan_2d', 'selective_scan_2d_backward', 'unavailable_reason']
