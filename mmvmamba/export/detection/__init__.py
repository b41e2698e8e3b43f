"""Whole detectors of mmdet for export: from an image to boxes, scores, labels and masks."""

from .comparison import Reference, difference, in_words
from .image_detector import ImageDetector
from .support import UnsupportedDetector

__all__ = ['ImageDetector', 'Reference', 'UnsupportedDetector', 'difference', 'in_words']
