"""Unpickling without running what a file names: `torch.load` with `weights_only=True` and stand-ins of our own.

PyTorch's restricted unpickler calls what is on its list with arguments that the file chooses, and sets the state of
what that returns. Nothing of NumPy or MMEngine is on the list: in their place stand the classes below, which only keep
what they are given. When the file has been read, it is gone through once, and each stand-in becomes the real thing if
what it was given makes one.
"""

import argparse
import codecs
import math
import pickle
import re
import tarfile
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from torch import Tensor, nn

from .archive import check_archive, is_zip
from .errors import CheckpointError, DamagedFile, Refused


def load_safely(path: Path, map_location: Any) -> Any:
    """`torch.load` of data alone; a `.safetensors` file is nothing else.

    Returns:
        Numbers, strings, tensors without attributes, NumPy arrays and scalars of numbers and strings, `HistoryBuffer`,
        `argparse.Namespace`, and dicts, lists, tuples and sets of these.

    Raises:
        Refused: only unpickling could restore what the file holds.
        DamagedFile: the file is empty, damaged or of another kind.
        CheckpointError: it cannot be read here, or not to `map_location`.
    """
    _check_device(map_location)
    try:
        with path.open('rb') as file:
            if path.stat().st_size == 0:
                raise DamagedFile(f'checkpoint {path} is empty: copy or download it again')
            if path.suffix == '.safetensors':
                return _load_safetensors(path, map_location)
            return _load(file, map_location)
    except Refused:
        raise
    except CheckpointError as error:
        raise error if str(path) in str(error) else CheckpointError(f'{path} cannot be read: {error}') from error
    except (MemoryError, OSError) as error:  # perhaps the machine's fault
        raise CheckpointError(f'{path} cannot be read ({_reason(error)}): see to that, or copy it again') from error
    except Exception as error:  # a damaged file makes the reader fail in any way, from KeyError to struct.error
        raise DamagedFile(
            f'{path} is not a PyTorch checkpoint, or it is truncated or damaged ({_reason(error)}): '
            'copy or download it again'
        ) from error


def _check_device(map_location: Any) -> None:
    """Raises before the file is opened, which is not to blame."""
    if not isinstance(map_location, (str, torch.device)):
        return
    try:
        torch.empty(0, device=map_location)
    except (RuntimeError, AssertionError) as error:
        raise CheckpointError(
            f'map_location={str(map_location)!r} is no device of this machine ({_reason(error)})'
        ) from error


def _load_safetensors(path: Path, map_location: Any) -> dict[str, Tensor]:
    if find_spec('safetensors') is None:
        raise CheckpointError(f'{path} needs safetensors, which is not installed: pip install safetensors')
    from safetensors.torch import load_file

    # such a file knows no devices that a dict or a function could map
    return load_file(path, str(map_location) if isinstance(map_location, (str, torch.device)) else 'cpu')


def _load(file: BinaryIO, map_location: Any) -> Any:
    # before 2.6 torch could run code from this format even with weights_only (CVE-2025-32434)
    if tarfile.is_tarfile(file):
        raise Refused('the tar format of torch 0.1')
    zipped = is_zip(file)
    if zipped:
        check_archive(file)
    file.seek(0)
    try:
        with _stand_ins():
            content = torch.load(file, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        if name := re.search(r'GLOBAL (\S+)', str(error)):
            raise Refused(f'the global {name[1]}') from None
        if zipped and 'PytorchStreamReader' not in str(error):  # before 2.6 also a record that lacks ends here
            raise Refused(f'a structure that is more than data ({_reason(error)})') from None
        raise
    return _Restoring().restore(content)


def _reason(error: Exception) -> str:
    # torch surrounds the reason with paragraphs of advice; the reason itself is the part after this mark
    text = str(error).split('WeightsUnpickler error:')[-1].strip()
    return f'{type(error).__name__}: {text.splitlines()[0]}'[:160] if text else type(error).__name__


# torch finds an allowed object by its own module and name, hence classes and functions that carry a foreign name.


def _named(full_name: str) -> Callable:
    def rename(thing: Callable) -> Callable:
        thing.__module__, _, thing.__name__ = full_name.rpartition('.')
        thing.__qualname__ = thing.__name__
        return thing

    return rename


@_named('yacs.config.CfgNode')
class _CfgNode:
    """The config of official classification files; made an OrderedDict, which torch can fill in this mode."""

    def __new__(cls) -> OrderedDict:
        return OrderedDict()


class _Dtype:
    """What a pickle says of a `numpy.dtype`: its name, then its byte order."""

    def __init__(self, name: str):
        # an array of objects is an array of addresses, and the file would choose them
        if not isinstance(name, str) or not re.fullmatch(r'[<>=|]?[biufcSU]\d+', name):
            raise Refused(f'the global numpy.dtype({str(name)[:40]})')
        self.value = np.dtype(name)

    def __setstate__(self, state: tuple) -> None:
        version, order, subtype, names, fields, size = state[:6]
        if version != 3 or order not in tuple('<>=|') or any(part is not None for part in (subtype, names, fields)):
            raise Refused('a NumPy type that is no plain number or string')
        if size not in (-1, self.value.itemsize):
            raise Refused('a NumPy type of two sizes')
        self.value = self.value.newbyteorder(order) if order in '<>' else self.value


@_named('numpy.dtype')
def _dtype(name: str, align: bool = False, copy: bool = False) -> _Dtype:
    return _Dtype(name)


# dtypes of NumPy 2 have classes of their own; pickles name them only beside the call above
@_named('numpy.ndarray')
class _Array:
    """What a pickle says of a `numpy.ndarray`."""

    def __new__(cls, *arguments):
        raise Refused('a call of the global numpy.ndarray')

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, is_fortran, raw = state
        self.value = _array(shape, dtype, raw, 'F' if is_fortran else 'C')


def _array(shape: tuple, dtype: _Dtype, raw: bytes, order: str = 'C') -> np.ndarray:
    """The array of these bytes, after checking that there are as many as shape and type say."""
    if type(dtype) is not _Dtype or type(raw) is not bytes or type(shape) is not tuple:
        raise Refused('a NumPy array that is not made of bytes')
    if any(type(length) is not int or length < 0 for length in shape):
        raise Refused('a NumPy array without a shape')
    dtype = dtype.value
    if len(raw) != math.prod(shape) * dtype.itemsize:
        raise Refused('a NumPy array whose bytes do not fill its shape')
    if not dtype.itemsize:
        return np.zeros(shape, dtype, order)
    array = np.frombuffer(raw, dtype).reshape(shape, order=order).copy(order)
    if dtype.kind == 'b' and array.view(np.uint8).max(initial=0) > 1:
        raise Refused('a NumPy array of truth values that are neither')
    if dtype.kind == 'U':
        array.tolist()  # raises if a number is no character
    return array


def _reconstruct(kind: type, shape: tuple, typecode: bytes) -> _Array:
    if kind is not _Array:
        raise Refused('a NumPy array of a foreign class')
    return object.__new__(_Array)


def _scalar(dtype: _Dtype, raw: bytes) -> np.generic:
    return _array((), dtype, raw)[()]


@_named('mmengine.logging.history_buffer.HistoryBuffer')
class _History:
    """What a pickle says of a `HistoryBuffer`, whose own `__setstate__` lets a file change the class."""

    def __new__(cls, *arguments):
        if arguments:
            raise Refused('a call of the global HistoryBuffer')
        return super().__new__(cls)

    def __setstate__(self, state: dict) -> None:
        self.state = state


@_named('builtins.getattr')
def _history_method(owner: type, name: str) -> str:
    """mmengine pickles the methods of HistoryBuffer as `getattr(HistoryBuffer, name)`; the class has them anyway."""
    if owner is not _History or name not in ('mean', 'min', 'max', 'current'):
        raise Refused('the global getattr')
    return name


@_named('builtins.bytes')
def _no_bytes() -> bytes:
    """An empty string of bytes, which protocol 2 writes as `bytes()`; all others are encoded text."""
    return b''


def _full_name(thing: Any) -> str:
    return thing[1] if isinstance(thing, tuple) else f'{thing.__module__}.{thing.__qualname__}'


def _numpy_functions() -> Iterator[Callable]:
    """The two that rebuild arrays and scalars, under the names that numpy 1 and numpy 2 write."""
    for module in ('numpy.core.multiarray', 'numpy._core.multiarray'):
        for name, function in (('_reconstruct', _reconstruct), ('scalar', _scalar)):

            def call(*arguments: object, function: Callable = function) -> object:
                return function(*arguments)

            yield _named(f'{module}.{name}')(call)


_ALLOWED = [
    argparse.Namespace,
    *(_CfgNode, _Dtype, _dtype, _Array, _History, _history_method, _no_bytes),
    *_numpy_functions(),
    *(codecs.encode, set, bytearray, complex),  # torch allows these by itself from 2.5 on
]
_LIST = threading.Lock()


@contextmanager
def _stand_ins() -> Iterator[None]:
    """Put the stand-ins on torch's list, which all threads share, and take them away again.

    What a program has put there itself under one of the names steps aside meanwhile.
    """
    names = {_full_name(thing) for thing in _ALLOWED}
    with _LIST:
        aside = [thing for thing in torch.serialization.get_safe_globals() if _full_name(thing) in names]
        _exchange(aside, _ALLOWED)
        try:
            yield
        finally:
            _exchange(_ALLOWED, aside)


def _exchange(removed: list, added: list) -> None:
    others = [thing for thing in torch.serialization.get_safe_globals() if thing not in removed]
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals([*others, *added])


class _Restoring:
    """Goes through what was read: stand-ins become the real thing, and whatever is not data is refused."""

    plain = (type(None), bool, int, float, complex, str, bytes, bytearray, torch.Size, torch.device, torch.dtype)

    def __init__(self):
        self.done: dict[int, Any] = {}
        self.kept: list = []  # an id is only good while its owner lives

    def restore(self, node: Any) -> Any:
        kind = type(node)
        if kind in self.plain or isinstance(node, np.generic):
            return node
        if id(node) not in self.done:
            self.kept.append(node)
            make = self.makers.get(kind)
            if make is None:
                name = node.__name__ if isinstance(node, type) or callable(node) else kind.__name__
                raise Refused(f'an object that is not data ({name[:40]})')
            self.done[id(node)] = make(self, node)
        return self.done[id(node)]

    def _tensor(self, node: Tensor) -> Tensor:
        # attributes, which FSDP and other trainers hang on tensors, are no data of theirs, and may hide their methods
        return Tensor.detach(node) if type(node) is nn.Parameter or node.__dict__ else node

    def _dict(self, node: dict) -> dict:
        result = self.done[id(node)] = type(node)()
        for key, value in dict.items(node):
            result[self.restore(key)] = self.restore(value)
        # PyTorch keeps the versions of modules there; yacs some of its own
        if isinstance(metadata := getattr(node, '__dict__', {}).get('_metadata'), dict):
            result._metadata = self.restore(metadata)
        return result

    def _list(self, node: list) -> list:
        result = self.done[id(node)] = []
        result.extend(map(self.restore, node))
        return result

    def _tuple(self, node: tuple) -> tuple:
        return tuple(map(self.restore, node))

    def _set(self, node: set) -> set:
        return set(map(self.restore, node))

    def _namespace(self, node: argparse.Namespace) -> argparse.Namespace:
        result = self.done[id(node)] = argparse.Namespace()
        vars(result).update(self._dict(vars(node)))
        return result

    def _value(self, node: Any) -> Any:
        if 'value' not in vars(node):
            raise Refused('a NumPy array without content')
        return node.value

    def _history(self, node: _History) -> HistoryBuffer:
        state = self.restore(getattr(node, 'state', None))
        try:
            logs, counts, most = (state[name] for name in ('_log_history', '_count_history', 'max_length'))
            fits = logs.ndim == counts.ndim == 1 and logs.dtype.kind in 'biuf' and counts.dtype.kind in 'biuf'
        except (AttributeError, KeyError, TypeError):
            fits = False
        if not fits or type(most) is not int or len(logs) > most:
            raise Refused('a HistoryBuffer that is no series of numbers')
        return HistoryBuffer(logs, counts, most)

    makers = {
        Tensor: _tensor,
        nn.Parameter: _tensor,
        dict: _dict,
        OrderedDict: _dict,
        Counter: _dict,
        list: _list,
        tuple: _tuple,
        set: _set,
        argparse.Namespace: _namespace,
        _Array: _value,
        _Dtype: _value,
        _History: _history,
    }
