"""Checks masks in COCO format before pycocotools processes them.

The C code of pycocotools does not validate its input: a coordinate that exceeds 32 bits causes a write outside of a
buffer, truncated compressed run lengths cause a read past their end, and runs that cover only a part of the mask leave
the rest uninitialised.
"""

from collections.abc import Sequence
from typing import Any, TypeGuard

import numpy as np

from .images import VARIABLE, pixel_limit
from .quoting import quoted

# The longest side of an image that OpenCV reads.
MAX_COORDINATE = 1 << 20
# pycocotools allocates 40 bytes for each pixel of an outline.
LONGEST_OUTLINE = 1 << 22
# Characters per compressed number: pycocotools decodes 5 bits per character into 32 bits.
LONGEST_NUMBER = 6

PAIR = 'the height and width of the mask as two positive integers'


def mask_fault(mask: object) -> str | None:
    """Returns the fault of a `segmentation` as the end of a sentence, or None.

    Args:
        mask: list of polygons, each [x1, y1, x2, y2, ...]; or a dict of `size` [height, width] and `counts`, which are
            run lengths (list) or compressed run lengths (str or bytes).
    """
    if isinstance(mask, dict):
        return _rle_fault(mask)
    if not isinstance(mask, (list, tuple)):
        return f'is {quoted(mask)}, but must be a list of polygons or a dict of size and counts'
    for polygon in mask:
        fault = _polygon_fault(polygon)
        if fault:
            return fault
    return None


def _polygon_fault(polygon: object) -> str | None:
    if not isinstance(polygon, (list, tuple, np.ndarray)):
        return f'has the polygon {quoted(polygon)}, but a polygon must be a list of numbers x1, y1, x2, y2, ...'
    if len(polygon) % 2:
        return f'has a polygon of {len(polygon)} numbers, but x and y must come in pairs'
    if not len(polygon):
        return None
    wrong = has_invalid_coordinates(polygon)
    if wrong:
        limits = f'{-MAX_COORDINATE} to {MAX_COORDINATE}'
        return f'has the coordinate {quoted(wrong[0])}, but coordinates must be numbers from {limits}'
    if len(polygon) * MAX_COORDINATE < LONGEST_OUTLINE or len(polygon) * _extent(polygon) < LONGEST_OUTLINE:
        return None
    points = np.asarray(polygon, dtype=np.float64).reshape(-1, 2)
    length = abs(points - np.roll(points, 1, axis=0)).max(axis=1).sum()
    if length > LONGEST_OUTLINE:
        return f'has a polygon with an outline of {length:.0f} pixels, but the limit is {LONGEST_OUTLINE}'
    return None


def has_invalid_coordinates(values: Sequence[Any] | np.ndarray) -> list[Any]:
    """Returns the values that are not finite numbers between -MAX_COORDINATE and MAX_COORDINATE."""
    try:  # these functions are written in C; there may be millions of values
        total = sum(values)
        if total == total and -MAX_COORDINATE <= min(values) and max(values) <= MAX_COORDINATE:
            return []
    except (TypeError, ValueError, OverflowError):
        pass
    return [value for value in values if not is_number(value) or not -MAX_COORDINATE <= value <= MAX_COORDINATE]


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value is a finite number. Bools are not numbers here."""
    if isinstance(value, (bool, np.bool_)):
        return False
    if isinstance(value, (int, np.integer)):
        return True
    return isinstance(value, (float, np.floating)) and bool(np.isfinite(value))


def is_integer(value: object) -> TypeGuard[int]:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _extent(polygon: Sequence[float] | np.ndarray) -> float:
    return max(polygon) - min(polygon)


def _rle_fault(rle: dict) -> str | None:
    size, counts = rle.get('size'), rle.get('counts')
    if size is None or counts is None:
        return f'has no {"size" if size is None else "counts"}, but run lengths need size and counts'
    if not isinstance(size, (list, tuple)) or len(size) != 2 or not all(is_integer(n) and n > 0 for n in size):
        return f'has the size {quoted(size)}, but it must be {PAIR}'
    pixels = size[0] * size[1]
    if pixels > pixel_limit():
        return f'has the size {quoted(size)}, more pixels than the limit of {pixel_limit()} ({VARIABLE})'
    if isinstance(counts, (str, bytes)):
        runs = _decompress(counts)
        if runs is None:
            return f'has the counts {quoted(counts)}, which are not compressed run lengths'
        if (runs < 0).any():
            return f'has the run length {runs.min()} in its compressed counts, but run lengths must be 0 or more'
        covered = int(runs.sum())
    elif isinstance(counts, (list, tuple)):
        wrong = [n for n in counts if not is_integer(n) or not 0 <= n <= pixels]
        if wrong:
            return f'has the run length {quoted(wrong[0])}, but run lengths must be integers from 0 to {pixels}'
        covered = sum(counts)
    else:
        return f'has the counts {quoted(counts)}, but they must be a list of integers or a string'
    if covered != pixels:
        return f'has run lengths for {covered} pixels, but the size {size[0]} x {size[1]} has {pixels}'
    return None


def _decompress(counts: str | bytes) -> np.ndarray | None:
    """Decodes COCO's compressed run lengths. Returns None if they are invalid.

    Each character holds five bits of a number, lowest bits first, and a sixth bit that is set if more characters
    follow. From the fourth number on, the difference from the number two places before is stored.
    """
    try:
        codes = np.frombuffer(counts.encode('ascii') if isinstance(counts, str) else counts, np.uint8).astype(np.int64)
    except UnicodeEncodeError:
        return None
    codes -= 48
    if not codes.size or codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        return None
    last = np.flatnonzero(codes & 32 == 0)
    first = np.concatenate([[0], last[:-1] + 1])
    lengths = last - first + 1
    if lengths.max() > LONGEST_NUMBER:
        return None
    place = np.arange(codes.size) - np.repeat(first, lengths)
    numbers = np.add.reduceat((codes & 31) << (5 * place), first)
    numbers -= np.where(codes[last] & 16, 1 << (5 * lengths), 0)  # the sign
    for start in (1, 2):
        numbers[start::2] = np.cumsum(numbers[start::2])
    return numbers
