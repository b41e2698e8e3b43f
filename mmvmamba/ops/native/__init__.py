"""The CPU kernels, in plain C and loaded with ctypes."""

from .library import info, unavailable_reason

__all__ = ['info', 'unavailable_reason']
