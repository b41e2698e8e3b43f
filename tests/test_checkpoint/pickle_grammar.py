"""Pickles by their grammar: calls of all names that the reader knows, and of some that run code."""

import random
from collections.abc import Callable
from pathlib import Path

from mmvmamba.checkpoint.allowlist import CALLS, DTYPES, NAMED_ONLY, NEW, STORAGES, UNSUPPORTED

from .raw import (
    NO_HOOKS,
    again,
    array,
    call,
    dict_of,
    integer,
    keep,
    list_of,
    name,
    raw_bytes,
    storage,
    tensor,
    text,
    tuple_of,
)

INTEGERS = (0, 1, 2, 3, 4, 7, 16, 255, 256, 2**16, 2**31 - 1, 2**32, 2**62, 2**64, 2**200, -1, -8, -(2**63))
TEXTS = (
    '',
    'a',
    '0',
    'cpu',
    'cuda:0',
    'meta',
    'latin1',
    'latin-1',
    'hex',
    'punycode',
    'f8',
    'O',
    'U0',
    'V8',
    'storage',
)
SIZES = (0, 1, 2, 4, 5, 2**31, 2**40, -1)
MOST_PLACES = 8


class PickleGrammar:
    """Draws instructions that leave one value on the stack.

    Args:
        chance: source of all choices.
        marker: file that calls which run code would create.
    """

    def __init__(self, chance: random.Random, marker: Path):
        self._chance, self._marker, self._places = chance, str(marker), 0

    def content(self) -> bytes:
        """A dict, as a checkpoint is, or any value."""
        if self._chance.random() < 0.1:
            return self.value(4)
        return dict_of(state_dict=self.value(4), meta=self.value(4))

    def growing(self) -> bytes:
        """A large value in place 0 of the memo, and a list of many that refer to it."""
        shared, functions = self._large(), [*CALLS, *NEW]
        function = self._chance.choice(functions)
        state = tuple_of(*self._chance.choices((again(0), b'N', integer(3), text('<'), integer(-1)), k=8)) + b'b'
        dtype = call('numpy.dtype', text('f8'), b'\x89', b'\x88')
        value = self._chance.choice(
            (
                call(function, again(0)),
                call(function, again(0), text('latin1')),
                call(function, *[again(0)] * self._chance.randrange(2, 8)),
                name(function) + again(0) + b'R',
                name(function) + again(0) + b'\x81',
                again(0) + b'Q',
                call('collections.OrderedDict') + again(0) + b'b',
                name('argparse.Namespace') + b')\x81' + again(0) + b'b',
                array((2**10,), 'i1', again(0)),
                array((1,), 'f8', again(0))[:-2] + again(0) + b'tb',
                dtype + state,
                tensor(again(0), (2**12,), (1,)),
                tensor(storage('0', 2**14), (2**14,), (1,), 0, again(0)),
                tuple_of(again(0), again(0)),
                list_of(again(0), again(0)),
                b'}' + again(0) + b'Ns',
                b'}',
                b')',
                b'(t',
                b']',
            )
        )
        times = self._chance.choice((10, 1000, 20_000))
        return dict_of(shared=keep(shared, 0), values=list_of(*[value] * times))

    def _large(self) -> bytes:
        length = 2 ** self._chance.randrange(8, 17)
        return self._chance.choice(
            (
                lambda: text('a' * length),
                lambda: text('\u4e00' * (length // 4)),
                lambda: raw_bytes(b'\0' * length),
                lambda: tuple_of(*[b'N'] * length),
                lambda: tuple_of(*[b'K\x01'] * length),
                lambda: list_of(*[text('a')] * length),
                lambda: list_of(*[list_of(text('a'), b'N')] * (length // 8)),
                lambda: b'}(' + b''.join(integer(number) + b'N' for number in range(length // 8)) + b'u',
                lambda: b'}(' + b''.join(text(str(number)) + b'N' for number in range(length // 8)) + b'u',
                lambda: array((length,), 'i1', raw_bytes(b'\1' * length)),
                lambda: tensor(storage('0', 2**14), (2**14,), (1,)),
                lambda: storage('0', 2**14),
                lambda: b')' + b'\x85' * self._chance.randrange(200),
                lambda: b']' * self._chance.randrange(2, 200),
            )
        )()

    def value(self, depth: int) -> bytes:
        makers = [self._plain, self._plain, self._again]
        if depth:
            makers += [self._container, self._call, self._tensor, self._array, self._kept, self._odd]
        return self._chance.choice(makers)(depth - 1)

    def _values(self, depth: int, most: int = 4) -> list[bytes]:
        return [self.value(depth) for _ in range(self._chance.randrange(most + 1))]

    def _plain(self, _: int) -> bytes:
        return self._chance.choice(
            (
                b'N',
                b'\x88',
                b'\x89',
                integer(self._chance.choice(INTEGERS)),
                text(self._chance.choice(TEXTS)),
                b'G' + self._chance.randbytes(8),
                b')',
                raw_bytes(self._chance.randbytes(self._chance.randrange(20))),
                name(self._chance.choice([*CALLS, *NEW, *STORAGES, *DTYPES, *NAMED_ONLY, *UNSUPPORTED])),
            )
        )

    def _container(self, depth: int) -> bytes:
        values = self._values(depth)
        return self._chance.choice(
            (
                lambda: tuple_of(*values),
                lambda: list_of(*values),
                lambda: dict_of(**{f'key{number}': value for number, value in enumerate(values)}),
                lambda: b'}(' + b''.join(self.value(0) + value for value in values) + b'u',
                lambda: b'}' + self.value(depth) + self.value(depth) + b's',
                lambda: call('builtins.set', list_of(*values)),
            )
        )()

    def _call(self, depth: int) -> bytes:
        values = self._values(depth)
        return self._chance.choice(
            (
                lambda: call(self._chance.choice(list(CALLS)), *values),
                lambda: call(self._chance.choice(list(CALLS)), *values),
                lambda: name(self._chance.choice(list(NEW))) + tuple_of(*values) + b'\x81',
                lambda: name(self._chance.choice(list(NEW))) + b')\x81' + self.value(depth) + b'b',
                lambda: self.value(depth) + self.value(depth) + b'b',
                lambda: self.value(depth) + tuple_of(*values) + b'R',
                lambda: call(
                    self._chance.choice(('io.open', 'builtins.open', '_io.open')), text(self._marker), text('w')
                ),
                lambda: call(self._chance.choice(('os.system', 'posix.system')), text(f'touch {self._marker}')),
                lambda: call('builtins.exec', text(f'open({self._marker!r}, "w")')),
                lambda: call('torch._utils._rebuild_parameter', self._tensor(0), b'\x89', NO_HOOKS),
                lambda: call(
                    'torch._tensor._rebuild_from_type_v2',
                    name(self._chance.choice(list(CALLS))),
                    name('torch.Tensor'),
                    tuple_of(*values),
                    b'}',
                ),
            )
        )()

    def _tensor(self, depth: int) -> bytes:
        dimensions = self._chance.randrange(4)
        size, stride = (self._chance.choices(SIZES, k=dimensions) for _ in range(2))
        if self._chance.random() < 0.5:
            size, stride = [4], [1]
        content = storage(
            self._chance.choice(('0', '1', '2', '7')),
            self._chance.choice((0, 1, 2, 4, 16, 2**40, -1) if self._chance.random() < 0.5 else (4,)),
            self._chance.choice(list(STORAGES)) if self._chance.random() < 0.5 else 'torch.FloatStorage',
            self._chance.choice(TEXTS),
            *([self._chance.choice((b'N', tuple_of()))] if self._chance.random() < 0.2 else []),
        )
        if self._chance.random() < 0.1:
            content = self.value(max(depth, 0))
        hooks = self.value(0) if self._chance.random() < 0.1 else NO_HOOKS
        return tensor(content, tuple(size), tuple(stride), self._chance.choice((0, 0, 0, 1, 4, -1, 2**62)), hooks)

    def _array(self, _: int) -> bytes:
        dtype = self._chance.choice(('f8', 'i1', 'b1', 'U1', 'S2', 'U0', 'S0', 'O8', 'V4', 'c16', 'f3'))
        shape = tuple(self._chance.choices(SIZES, k=self._chance.randrange(3)))
        content = self.value(0) if self._chance.random() < 0.2 else raw_bytes(bytes(self._chance.choice((0, 1, 8, 16))))
        return array(shape, dtype, content)

    def _kept(self, depth: int) -> bytes:
        value = self.value(depth)
        self._places += 1
        return keep(value, self._places % MOST_PLACES)

    def _again(self, _: int) -> bytes:
        return again(self._chance.randrange(MOST_PLACES)) if self._places else b'N'

    def _odd(self, depth: int) -> bytes:
        """Instructions that the reader does not know, or in a place where they make no sense."""
        values: tuple[Callable[[], bytes], ...] = (
            lambda: self.value(depth) + b'0' + self.value(depth),
            lambda: text('os') + text('system') + b'\x93',
            lambda: b'(' + text('true') + b'ios\nsystem\n',
            lambda: b'(' + name('collections.OrderedDict') + self.value(depth) + b'o',
            lambda: self.value(depth) + tuple_of() + b'}\x92',
            lambda: b'\x82\x01',
            lambda: b'\x8f',
            lambda: b'\x8a\xff' + bytes(255),
            lambda: b'X\xff\xff\xff\xff',
            lambda: b'\x80\x04' + self.value(depth),
            lambda: self.value(depth) + b'a',
            lambda: b'(',
            lambda: b'e',
            lambda: self._chance.randbytes(3),
        )
        return self._chance.choice(values)()
