"""Restores objects of NumPy and MMEngine from their state in a pickle.

The `__setstate__` of these types would let a file write to memory, change a shared dtype, or change a class.
"""

import math
import re
import sys
from abc import ABC, abstractmethod
from typing import Any, Literal

import numpy as np
from mmengine.logging import HistoryBuffer

from .budget import Budget
from .errors import UnsafeCheckpoint

MOST_DIMENSIONS = 64


class Unfinished(ABC):
    """An object that a pickle has created, but whose state it has not set yet."""

    name: str  # of the type
    place: int | None = None  # index in the memo of the pickle

    @abstractmethod
    def finish(self, budget: Budget, state: Any) -> Any:
        """Returns the object with this state."""


class UnfinishedDtype(Unfinished):
    """A `numpy.dtype` without its byte order."""

    name = 'numpy.dtype'

    def __init__(self, name: str):
        # an array of objects contains addresses, which the file would choose
        if type(name) is not str or not re.fullmatch(r'[<>=|]?[biufcSU]\d{1,9}', name):
            raise UnsafeCheckpoint(f'a call of numpy.dtype for {str(name)[:40]}')
        self.dtype = np.dtype(name)

    def finish(self, budget: Budget, state: tuple) -> np.dtype:
        version, order, subtype, names, fields, size = state[:6]
        if type(version) is not int or version != 3 or any(part is not None for part in (subtype, names, fields)):
            raise UnsafeCheckpoint('a NumPy type other than numbers and strings')
        if type(order) is not str or order not in ('<', '>', '=', '|'):
            raise UnsafeCheckpoint('a NumPy type of an unknown byte order')
        if type(size) is not int or size not in (-1, self.dtype.itemsize):
            raise UnsafeCheckpoint('a NumPy type with two sizes')
        return self.dtype.newbyteorder(order) if order in ('<', '>') else self.dtype


class UnfinishedArray(Unfinished):
    """A `numpy.ndarray` without its content."""

    name = 'numpy.ndarray'

    def finish(self, budget: Budget, state: tuple) -> np.ndarray:
        _, shape, dtype, is_fortran, content = state
        return array(budget, shape, dtype, content, 'F' if is_fortran is True else 'C')


class UnfinishedHistory(Unfinished):
    """A `HistoryBuffer` without its series. The methods listed in its pickle are those of the class."""

    name = 'HistoryBuffer'

    def finish(self, budget: Budget, state: dict) -> HistoryBuffer:
        try:
            logs, counts, longest = (state[name] for name in ('_log_history', '_count_history', 'max_length'))
            fits = len(logs) == len(counts) and all(
                type(series) is np.ndarray and series.ndim == 1 and series.dtype.kind in 'biuf'
                for series in (logs, counts)
            )
        except (KeyError, TypeError):
            fits = False
        if not fits or type(longest) is not int or len(logs) > longest:
            raise UnsafeCheckpoint('a HistoryBuffer that is not a series of numbers')
        budget.spend_bytes(logs.nbytes + counts.nbytes)
        return HistoryBuffer(logs, counts, longest)


def array(budget: Budget, shape: tuple, dtype: np.dtype, content: bytes, order: Literal['C', 'F'] = 'C') -> np.ndarray:
    """Creates an array from bytes, after checking that their number matches its shape and type."""
    if not isinstance(dtype, np.dtype) or type(content) is not bytes or type(shape) is not tuple:
        raise UnsafeCheckpoint('a NumPy array that is not made of bytes')
    if len(shape) > MOST_DIMENSIONS or any(type(length) is not int or not 0 <= length < 2**60 for length in shape):
        raise UnsafeCheckpoint('a NumPy array without a shape')
    elements = math.prod(shape)
    if len(content) != elements * dtype.itemsize or (not dtype.itemsize and elements > 1):
        raise UnsafeCheckpoint('a NumPy array whose bytes do not fill its shape')
    budget.spend_bytes(len(content))
    if dtype.kind == 'b' and content.translate(None, b'\x00\x01'):
        raise UnsafeCheckpoint('a NumPy array of booleans that are neither true nor false')
    if dtype.kind == 'U' and content:
        codes = np.frombuffer(content, np.dtype('u4').newbyteorder(dtype.byteorder))
        if codes.max() > sys.maxunicode:
            raise UnsafeCheckpoint('a NumPy array of characters that do not exist')
    return np.ndarray(shape, dtype, content, order=order).copy(order) if content else np.zeros(shape, dtype, order)


def scalar(budget: Budget, dtype: np.dtype, content: bytes) -> Any:
    """Returns a NumPy scalar."""
    return array(budget, (), dtype, content)[()]
