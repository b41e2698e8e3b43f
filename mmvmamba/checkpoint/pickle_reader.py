"""A pickle interpreter that calls only functions of this package.

It supports the instructions that `torch.save` writes (pickle protocol 2). A global is looked up in the tables of
`allowlist.py` and never imported. Nothing outside this package is called with arguments from the file, and no state is
shared with PyTorch's reader or with other threads.
"""

import argparse
import pickle
import struct
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Any, BinaryIO

import torch

from .allowlist import CALLS, NEW, STORAGES, Global, find_global
from .arrays import Unfinished
from .budget import CALL, Budget
from .errors import DamagedContent, UnsafeCheckpoint
from .structure import check_structure
from .tensors import Storage

LONGEST_INTEGER = 32  # bytes
LONGEST_GLOBAL = 500
_UNEXPECTED = (TypeError, ValueError, OverflowError, AttributeError, RuntimeError)

LoadStorage = Callable[[torch.dtype | None, str, str, int], Storage]


class PickleReader:
    """Reads one pickle from the current position of a file.

    Args:
        file: file opened for reading.
        size: size of the file in bytes.
        budget: limits the cost of the pickle.
        load_storage: returns the storage for `(dtype, key, location, number of elements)`; dtype is None for an untyped
            storage, whose elements are bytes.
    """

    def __init__(self, file: BinaryIO, size: int, budget: Budget, load_storage: LoadStorage | None = None):
        self._file, self._size, self._budget, self._load_storage = file, size, budget, load_storage

    def load(self) -> Any:
        """Returns the content: numbers, strings, tensors, arrays, and dicts, lists, tuples and sets of these.

        Raises:
            DamagedContent: the pickle is not valid.
            UnsafeCheckpoint: the pickle contains more than data, or exceeds the budget.
        """
        self._stack, self._outer_stacks, self._memo = [], [], {}
        try:
            while (code := self._file.read(1)) != pickle.STOP:
                operation = _OPERATIONS.get(code)
                if operation is None:
                    raise DamagedContent(f'{code!r} is not an instruction' if code else 'it ends within a pickle')
                self._budget.spend()
                operation(self)
            content = self._stack.pop()
            if self._stack or self._outer_stacks:
                raise DamagedContent('a pickle ends too early')
        except (IndexError, KeyError, UnicodeDecodeError, struct.error) as error:
            raise DamagedContent(f'not a valid pickle ({type(error).__name__})') from error
        check_structure(content, self._budget)
        return content

    def _take(self, count: int) -> bytes:
        if count > self._size - self._file.tell():  # before memory is allocated for it
            raise DamagedContent('it ends within a pickle')
        return self._file.read(count)

    def _number(self, layout: struct.Struct) -> Any:
        return layout.unpack(self._file.read(layout.size))[0]

    def _check_protocol(self) -> None:
        if (protocol := self._number(_BYTE)) != 2:
            raise UnsafeCheckpoint(f'a pickle of protocol {protocol} (torch.save writes protocol 2 by default)')

    # Values

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _push_long(self) -> None:
        if (length := self._number(_BYTE)) > LONGEST_INTEGER:
            raise UnsafeCheckpoint(f'an integer of {length} bytes')
        self._push(int.from_bytes(self._take(length), 'little', signed=True))

    def _push_text(self, length: struct.Struct, errors: str) -> None:
        self._push(str(self._take(self._number(length)), 'utf-8', errors))

    def _push_global(self) -> None:
        name = '.'.join(self._line() for _ in range(2))
        self._push(find_global(name))

    def _line(self) -> str:
        line = self._file.readline(LONGEST_GLOBAL)
        if not line.endswith(b'\n'):
            raise DamagedContent('the name of a global does not end')
        return line[:-1].decode()

    def _push_storage(self) -> None:
        identity = self._stack.pop()
        if type(identity) is not tuple or len(identity) not in (5, 6):
            raise UnsafeCheckpoint('a reference to something other than a storage')
        types = tuple(map(type, identity[:5]))
        if types != (str, Global, str, str, int) or identity[0] != 'storage' or identity[1].name not in STORAGES:
            raise UnsafeCheckpoint('a reference to something other than a storage')
        if len(identity) == 6 and identity[5] is not None:
            raise UnsafeCheckpoint('a storage that is a view of another one')
        _, kind, key, location, count = identity[:5]
        if self._load_storage is None or not 0 <= count < 2**60:
            raise DamagedContent('a storage out of place')
        self._budget.spend(CALL)
        self._push(self._load_storage(STORAGES[kind.name], key, location, count))

    # Memo

    def _memorize(self, layout: struct.Struct) -> None:
        place = self._number(layout)
        self._memo[place] = value = self._stack[-1]
        if isinstance(value, Unfinished):
            value.place = place

    def _recall(self, layout: struct.Struct) -> None:
        self._push(self._memo[self._number(layout)])

    # Containers

    def _mark(self) -> None:
        self._outer_stacks.append(self._stack)
        self._stack = []

    def _since_mark(self) -> list:
        items, self._stack = self._stack, self._outer_stacks.pop()
        return items

    def _push_tuple(self, length: int) -> None:
        items = tuple(self._stack.pop() for _ in range(length))
        self._push(items[::-1])

    def _append(self, items: list) -> None:
        if type(target := self._stack[-1]) is not list:
            raise UnsafeCheckpoint(f'a {type(target).__name__} used as a list')
        target.extend(items)

    def _set_items(self, items: list) -> None:
        if type(target := self._stack[-1]) not in (dict, OrderedDict, Counter):
            raise UnsafeCheckpoint(f'a {type(target).__name__} used as a dict')
        if len(items) % 2:
            raise DamagedContent('a key without a value')
        for key, value in zip(items[::2], items[1::2]):
            self._budget.check_key(key)
            target[key] = value

    def _set_item(self) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._set_items([key, value])

    # Objects

    def _call(self, table: dict[str, Callable]) -> None:
        arguments, function = self._stack.pop(), self._stack.pop()
        if type(function) is not Global or function.name not in table or type(arguments) is not tuple:
            name = function.name if type(function) is Global else type(function).__name__
            raise UnsafeCheckpoint(f'a call of {name}')
        self._budget.spend(CALL)
        try:
            self._push(table[function.name](self._budget, *arguments))
        except _UNEXPECTED as error:
            raise UnsafeCheckpoint(f'a call of {function.name} with unexpected arguments') from error

    def _set_state(self) -> None:
        state, target = self._stack.pop(), self._stack[-1]
        self._budget.spend(CALL)
        if isinstance(target, Unfinished):
            try:
                self._stack[-1] = target.finish(self._budget, state)
            except _UNEXPECTED as error:
                raise UnsafeCheckpoint(f'an unexpected state of {type(target).name}') from error
            if target.place is not None:
                self._memo[target.place] = self._stack[-1]
        elif type(target) is argparse.Namespace and type(state) is dict and all(type(name) is str for name in state):
            self._budget.spend(len(state))
            vars(target).update(state)
        elif type(target) is OrderedDict and type(state) is dict:
            if type(metadata := state.get('_metadata')) in (dict, OrderedDict):  # versions of modules; yacs has others
                target._metadata = metadata  # pyright: ignore[reportAttributeAccessIssue]  (as in PyTorch)
        else:
            raise UnsafeCheckpoint(f'a state for a {type(target).__name__}')


_BYTE, _SHORT, _INT, _UNSIGNED, _FLOAT = (struct.Struct(layout) for layout in ('B', '<H', '<i', '<I', '>d'))

_OPERATIONS: dict[bytes, Callable[[PickleReader], None]] = {
    pickle.PROTO: PickleReader._check_protocol,
    pickle.NONE: lambda reader: reader._push(None),
    pickle.NEWTRUE: lambda reader: reader._push(True),
    pickle.NEWFALSE: lambda reader: reader._push(False),
    pickle.BININT: lambda reader: reader._push(reader._number(_INT)),
    pickle.BININT1: lambda reader: reader._push(reader._number(_BYTE)),
    pickle.BININT2: lambda reader: reader._push(reader._number(_SHORT)),
    pickle.LONG1: PickleReader._push_long,
    pickle.BINFLOAT: lambda reader: reader._push(reader._number(_FLOAT)),
    pickle.BINUNICODE: lambda reader: reader._push_text(_UNSIGNED, 'surrogatepass'),
    pickle.SHORT_BINSTRING: lambda reader: reader._push_text(_BYTE, 'strict'),  # of Python 2
    pickle.GLOBAL: PickleReader._push_global,
    pickle.BINPERSID: PickleReader._push_storage,
    pickle.BINPUT: lambda reader: reader._memorize(_BYTE),
    pickle.LONG_BINPUT: lambda reader: reader._memorize(_UNSIGNED),
    pickle.BINGET: lambda reader: reader._recall(_BYTE),
    pickle.LONG_BINGET: lambda reader: reader._recall(_UNSIGNED),
    pickle.MARK: PickleReader._mark,
    pickle.EMPTY_TUPLE: lambda reader: reader._push(()),
    pickle.TUPLE: lambda reader: reader._push(tuple(reader._since_mark())),
    pickle.TUPLE1: lambda reader: reader._push_tuple(1),
    pickle.TUPLE2: lambda reader: reader._push_tuple(2),
    pickle.TUPLE3: lambda reader: reader._push_tuple(3),
    pickle.EMPTY_LIST: lambda reader: reader._push([]),
    pickle.APPEND: lambda reader: reader._append([reader._stack.pop()]),
    pickle.APPENDS: lambda reader: reader._append(reader._since_mark()),
    pickle.EMPTY_DICT: lambda reader: reader._push({}),
    pickle.SETITEM: PickleReader._set_item,
    pickle.SETITEMS: lambda reader: reader._set_items(reader._since_mark()),
    pickle.REDUCE: lambda reader: reader._call(CALLS),
    pickle.NEWOBJ: lambda reader: reader._call(NEW),
    pickle.BUILD: PickleReader._set_state,
}
