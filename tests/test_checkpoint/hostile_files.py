"""Hostile files, made by hand. Each must be refused in one sentence, at a cost in proportion to its size."""

import bz2
import gzip
import io
import lzma
import pickle
import pickletools
import struct
import tarfile

import torch

from .raw import (
    NO_HOOKS,
    again,
    array,
    call,
    deflated,
    dict_of,
    file_of,
    integer,
    keep,
    list_of,
    name,
    pickled,
    raw_bytes,
    record,
    records_of,
    storage,
    tensor,
    text,
    tuple_of,
    two_directories,
    zip_of,
    zip_of_64,
)

FOUR = struct.pack('<4f', 1, 2, 3, 4)
WEIGHTS = dict_of(w=tensor(storage('0', 4), (4,), (1,)))


def repeated(value: bytes, shared: bytes, times: int = 50_000) -> bytes:
    """A list of many objects, each made anew from what is in place 0 of the memo."""
    return file_of(dict_of(shared=keep(shared, 0), values=list_of(*[value] * times)))


def nested(start: bytes, step: bytes, levels: int) -> bytes:
    return start + step * levels


PAIRS = b''.join(b'q' + bytes([level]) + again(level) + b'\x86' for level in range(60))
LONG_TUPLE = tuple_of(*[b'K\x01'] * 100_000)
LONG_LIST = list_of(*[text('a')] * 100_000)
LONG_DICT = b'}(' + b''.join(integer(number) + b'N' for number in range(20_000)) + b'u'
LONG_TEXT = text('a' * 2**20)
DTYPE = call('numpy.dtype', text('f8'), b'\x89', b'\x88')

GROWING = {
    'bytearray of a length': file_of(dict_of(x=call('builtins.bytearray', integer(6 * 10**9)))),
    'bytes of a length': file_of(dict_of(x=call('builtins.bytes', integer(6 * 10**9)))),
    'range': file_of(dict_of(x=call('builtins.list', call('builtins.range', integer(10**10))))),
    'slice': file_of(dict_of(x=call('builtins.slice', integer(0), integer(10**10)))),
    'encoded in hexadecimal': file_of(dict_of(x=call('_codecs.encode', LONG_TEXT, text('hex')))),
    'encoded in punycode': file_of(dict_of(x=call('_codecs.encode', text('\u4e00' * 60_000), text('punycode')))),
    'encoded again and again': repeated(call('_codecs.encode', again(0), text('latin1')), LONG_TEXT),
    'bytearrays of one text': repeated(call('builtins.bytearray', again(0), text('latin-1')), LONG_TEXT),
    'arrays of one text': repeated(array((2**20,), 'i1', again(0)), raw_bytes(b'a' * 2**20)),
    'copies of a dict': repeated(call('collections.Counter', again(0)), LONG_DICT),
    'copies of a list': repeated(call('builtins.set', again(0)), LONG_LIST),
    'copies of pairs': repeated(
        call('collections.OrderedDict', again(0)), list_of(*[list_of(text('a'), b'N')] * 10_000)
    ),
    'sizes of one tuple': repeated(call('torch.Size', again(0)), LONG_TUPLE),
    'shapes of one tuple': repeated(array((1,), 'f8', again(0))[:-2] + again(0) + b't' + b'b', LONG_TUPLE),
    'types compared with an array': repeated(
        DTYPE + tuple_of(again(0), *[b'N'] * 7) + b'b', array((2**20,), 'i1', raw_bytes(b'a' * 2**20))
    ),
    'storages of one long tuple': repeated(again(0) + b'Q', LONG_TUPLE),
    'array of empty strings': file_of(dict_of(x=array((2**40,), 'S0', call('builtins.bytes')))),
    'array of empty texts': file_of(dict_of(x=array((2**20, 2**20), 'U0', call('builtins.bytes')))),
    'key of nested pairs': file_of(b'}(' + text('x') + b'}' + text('k') + PAIRS + b'Nsu'),
    'value of nested pairs': file_of(dict_of(x=text('k') + PAIRS)),
    'deep list': file_of(dict_of(x=b']' * 100_000 + b'a' * 99_999)),
    'deep tuple': file_of(dict_of(x=nested(b'N', b'\x85', 100_000))),
    'list in itself': file_of(dict_of(x=keep(b']', 0) + again(0) + b'a')),
    'dict in itself': file_of(keep(b'}', 0) + text('x') + again(0) + b's'),
    'many dicts': file_of(dict_of(x=list_of(b'}' * 3_000_000))),
    'many memo entries': file_of(dict_of(x=b'N' + b''.join(b'r' + struct.pack('<I', n) for n in range(3_000_000)))),
    'many marks': file_of(b'(' * 3_000_000),
    'keys of the same hash': file_of(
        dict_of(x=b'}(' + b''.join(integer(number * (2**61 - 1)) + b'N' for number in range(30_000)) + b'u')
    ),
    'many numbers as keys': file_of(
        dict_of(x=b'}(' + b''.join(integer(number) + b'N' for number in range(40_000)) + b'u')
    ),
    'integer of 255 bytes': file_of(dict_of(x=b'\x8a\xff' + b'\x7f' * 255)),
    'integer of a million bytes': file_of(dict_of(x=b'\x8b' + struct.pack('<i', 10**6) + b'\x7f' * 10**6)),
    'text longer than the file': file_of(b'X\xff\xff\xff\xff'),
    'expanded tensor': file_of(dict_of(w=tensor(storage('0', 1), (2**40,), (0,))), _0=FOUR[:4]),
    'many views of one storage': file_of(
        dict_of(w=keep(storage('0', 2**20), 0), x=list_of(*[tensor(again(0), (2**20,), (1,))] * 1000)),
        _0=b'\0' * 2**22,
    ),
}

TENSORS = {
    'memory as a FloatTensor': file_of(dict_of(w=call('torch.FloatTensor', integer(64), integer(64)))),
    'memory as a new Tensor': file_of(dict_of(w=name('torch.Tensor') + tuple_of(integer(64)) + b'\x81')),
    'missing record': file_of(WEIGHTS),
    'record too short': file_of(WEIGHTS, _0=FOUR[:12]),
    'record too long': file_of(WEIGHTS, _0=FOUR + FOUR),
    'negative length of a storage': file_of(dict_of(w=tensor(storage('0', -1), (1,), (1,))), _0=FOUR),
    'length beyond 64 bits': file_of(dict_of(w=tensor(storage('0', 2**70), (1,), (1,))), _0=FOUR),
    'beyond the storage': file_of(dict_of(w=tensor(storage('0', 4), (5,), (1,))), _0=FOUR),
    'stride beyond the storage': file_of(dict_of(w=tensor(storage('0', 4), (2,), (4,))), _0=FOUR),
    'offset beyond the storage': file_of(dict_of(w=tensor(storage('0', 4), (1,), (1,), 4)), _0=FOUR),
    'negative offset': file_of(dict_of(w=tensor(storage('0', 4), (1,), (1,), -1)), _0=FOUR),
    'negative stride': file_of(dict_of(w=tensor(storage('0', 4), (2,), (-1,), 1)), _0=FOUR),
    'negative size': file_of(dict_of(w=tensor(storage('0', 4), (-1,), (1,))), _0=FOUR),
    'sizes that overflow': file_of(dict_of(w=tensor(storage('0', 4), (2**33, 2**33), (0, 0))), _0=FOUR),
    'more sizes than strides': file_of(dict_of(w=tensor(storage('0', 4), (2, 2), (1,))), _0=FOUR),
    'hooks': file_of(dict_of(w=tensor(storage('0', 4), (4,), (1,), 0, dict_of(a=b'N'))), _0=FOUR),
    'storage of two types': file_of(
        dict_of(
            w=tensor(storage('0', 4), (4,), (1,)),
            v=tensor(storage('0', 4, 'torch.IntStorage'), (4,), (1,)),
        ),
        _0=FOUR,
    ),
    'storage as data': file_of(dict_of(w=storage('0', 4)), _0=FOUR),
    'storage of another class': file_of(dict_of(w=storage('0', 4, 'torch.FloatTensor')), _0=FOUR),
    'view of a storage': file_of(
        dict_of(w=tensor(storage('0', 4, 'torch.FloatStorage', 'cpu', tuple_of(b'N')), (4,), (1,))), _0=FOUR
    ),
    'booleans of other values': file_of(
        dict_of(w=tensor(storage('0', 4, 'torch.BoolStorage'), (4,), (1,))), _0=b'\0\1\2\xff'
    ),
    'quantized': file_of(dict_of(w=call('torch._utils._rebuild_qtensor', storage('0', 4))), _0=FOUR),
    'quantized storage': file_of(dict_of(w=storage('0', 4, 'torch.QInt8Storage')), _0=FOUR[:4]),
    'sparse': file_of(dict_of(w=call('torch._utils._rebuild_sparse_tensor', b'N', tuple_of()))),
    'nested': file_of(dict_of(w=call('torch._utils._rebuild_nested_tensor', b'N', b'N', b'N', b'N'))),
    'subclass': file_of(dict_of(w=call('torch._utils._rebuild_wrapper_subclass', b'N'))),
}

INSTRUCTIONS = {
    'protocol 4': zip_of([record('a/data.pkl', pickled(WEIGHTS, 4)), record('a/data/0', FOUR)]),
    'STACK_GLOBAL': file_of(text('os') + text('system') + b'\x93' + tuple_of(text('true')) + b'R'),
    'INST': file_of(b'(' + text('true') + b'ios\nsystem\n'),
    'OBJ': file_of(b'(' + name('os.system') + text('true') + b'o'),
    'NEWOBJ_EX': file_of(name('os.system') + tuple_of(text('true')) + b'}\x92'),
    'EXT1': file_of(b'\x82\x01'),
    'persistent id as text': file_of(b'Pstorage\n'),
    'empty set': file_of(dict_of(x=b'\x8f')),
    'call of a value': file_of(dict_of(x=text('a') + tuple_of() + b'R')),
    'state of a dict': file_of(dict_of(x=b'}' + dict_of(a=b'N') + b'b')),
    'stack underflow': file_of(b'a'),
    'memo that is empty': file_of(again(7)),
    'tuple without a mark': file_of(b't'),
    'two values': file_of(b'NN'),
    'global without an end': file_of(b'c' + b'a' * 10**6),
    'global with an escape sequence': file_of(name('evil\x1b[31m.name')),
    'global of os': file_of(dict_of(x=call('os.system', text('true')))),
    'global of torch': file_of(dict_of(x=call('torch.load', text('file.pth')))),
    'attribute of a class': file_of(dict_of(x=call('builtins.getattr', name('torch.Tensor'), text('__class__')))),
    'function as data': file_of(dict_of(x=name('collections.OrderedDict'))),
    'unfinished array': file_of(
        dict_of(x=call('numpy.core.multiarray._reconstruct', name('numpy.ndarray'), tuple_of(integer(0)), b'N'))
    ),
}

_HONEST = records_of(WEIGHTS, _0=FOUR)
_OTHER = [record('a/data/0', bytes(16)) if entry['name'] == b'a/data/0' else entry for entry in _HONEST]
_BOMB = [record('a/data.pkl', pickled(WEIGHTS)), deflated('a/data/0', bytes(2 * 10**8))]


def _changed(which: str, **fields) -> list[dict]:
    return [entry | fields if entry['name'].decode() == which else entry for entry in _HONEST]


ZIPS = {
    'two directories': two_directories(_HONEST, _OTHER),
    'compressed records in the second directory': two_directories(_HONEST, [*_BOMB, *_HONEST[1:2], *_HONEST[3:]]),
    'directory before the end': zip_of(_HONEST)[:-22] + bytes(64) + zip_of(_HONEST)[-22:],
    'ZIP64 directory elsewhere': zip_of_64(_HONEST, offset=0),
    'ZIP64 count': zip_of_64(_HONEST, count=1),
    'ZIP64 record elsewhere': zip_of_64(_HONEST, at=0),
    'ZIP64 beyond the file': zip_of_64(_HONEST, offset=2**62, size=2**62),
    'count of fewer records': zip_of(_HONEST, count=2),
    'count of more records': zip_of(_HONEST, count=60_000),
    'directory beyond the file': zip_of(_HONEST, offset=2**31),
    'comment': zip_of(_HONEST, comment=b'a comment'),
    'comment that ends like a zip file': zip_of(_HONEST, comment=zip_of(_OTHER)),
    'bytes at the end': zip_of(_HONEST) + bytes(100),
    'bytes at the beginning': b'#!/bin/sh\n' + zip_of(_HONEST),
    'compressed': zip_of(_BOMB),
    'compressed size': zip_of(_changed('a/data/0', stored_size=3)),
    'encrypted': zip_of(_changed('a/data/0', flags=1)),
    'of several disks': zip_of(_changed('a/data/0', disk=1)),
    'size beyond the file': zip_of(_changed('a/data/0', size=2**31, stored_size=2**31)),
    'records that overlap': zip_of(_changed('a/data/0', at=0)),
    'header beyond the file': zip_of(_changed('a/data/0', at=2**31)),
    'one name for two records': zip_of([*_HONEST, record('a/data/0', bytes(16))]),
    'two names for one record': zip_of(_changed('a/data/0', local_name=b'a/data/1')),
    'several folders': zip_of([*_HONEST, record('b/data.pkl', pickled(b'N'))]),
    'wrong checksum': zip_of(_changed('a/data/0', crc=1)),
    'no checksum for the tensors': zip_of(_changed('a/data/0', crc=0)),
    'unknown byte order': zip_of(_changed('a/byteorder', **record('a/byteorder', b'middle'))),
    'no pickle': zip_of(_HONEST[1:]),
    'TorchScript': zip_of([*_HONEST, record('a/constants.pkl', pickled(b'N'))]),
    'empty': zip_of([]),
    'end alone': b'PK\3\4' + zip_of([]),
    'cut in the directory': zip_of(_HONEST)[:-30],
}


def _legacy() -> tuple[bytes, list[int]]:
    """A file of the format before PyTorch 1.6, and where its five pickles end."""
    file = io.BytesIO()
    content = {'w': torch.arange(4.0), 'v': torch.arange(3.0)}
    torch.save(content, file, _use_new_zipfile_serialization=False)
    file.seek(0)
    ends = []
    for _ in range(5):
        for _ in pickletools.genops(file):
            pass
        ends.append(file.tell())
    return file.getvalue(), ends


_FILE, _ENDS = _legacy()
_KEYS = pickle.loads(_FILE[_ENDS[3] : _ENDS[4]])
_STORAGES = _FILE[_ENDS[4] :]


def _with_keys(keys: object, storages: bytes = _STORAGES) -> bytes:
    return _FILE[: _ENDS[3]] + pickle.dumps(keys, 2) + storages


def _with_content(value: bytes, storages: bytes, keys: tuple = ('0',)) -> bytes:
    return _FILE[: _ENDS[2]] + pickled(value) + pickle.dumps(list(keys), 2) + storages


_VIEWED = storage('0', 4, 'torch.FloatStorage', 'cpu', b'N')

LEGACY = {
    'no storages': _with_keys([], b''),
    'one storage is missing': _with_keys(_KEYS[:1]),
    'one storage twice': _with_keys([_KEYS[0], _KEYS[0]]),
    'unknown storage': _with_keys([*_KEYS, '7'], _STORAGES + _STORAGES),
    'keys that are not a list': _with_keys(dict.fromkeys(_KEYS, 1)),
    'keys that are not strings': _with_keys([1, 2]),
    'storage without its content': _FILE[: _ENDS[4]],
    'storage cut short': _FILE[:-2],
    'bytes at the end': _FILE + b'\0',
    'another size': _FILE[: _ENDS[4]] + struct.pack('<q', 5) + _STORAGES[8:],
    'negative size': _FILE[: _ENDS[4]] + struct.pack('<q', -4) + _STORAGES[8:],
    'storage larger than the file': _with_content(
        dict_of(w=tensor(storage('0', 2**33, 'torch.FloatStorage', 'cpu', b'N'), (4,), (1,))),
        struct.pack('<q', 2**33) + FOUR,
    ),
    'view of a storage': _with_content(
        dict_of(
            w=tensor(storage('0', 4, 'torch.FloatStorage', 'cpu', tuple_of(text('1'), b'K\0', b'K\x04')), (4,), (1,))
        ),
        struct.pack('<q', 4) + FOUR,
    ),
    'storage of two sizes': _with_content(
        dict_of(w=tensor(_VIEWED, (4,), (1,)), v=tensor(storage('0', 2), (2,), (1,))), struct.pack('<q', 4) + FOUR
    ),
    'another magic number': pickled(integer(7)) + _FILE[_ENDS[0] :],
    'another version': _FILE[: _ENDS[0]] + pickled(integer(7)) + _FILE[_ENDS[1] :],
    'code in the first pickle': pickled(call('os.system', text('true'))) + _FILE[_ENDS[0] :],
    'code in the keys': _FILE[: _ENDS[3]] + pickled(call('os.system', text('true'))) + _STORAGES,
    'storage in the keys': _FILE[: _ENDS[3]] + pickled(list_of(_VIEWED)) + _STORAGES,
    'bare pickle': pickled(WEIGHTS),
}


def _tar_with_a_long_name(compress) -> bytes:
    """`tarfile.is_tarfile` unpacks it all to find out what it is."""
    header = tarfile.TarInfo('x')
    header.size, header.type = 10**8, tarfile.GNUTYPE_LONGNAME
    return compress(header.tobuf(tarfile.GNU_FORMAT) + bytes(10**8))


def _tar() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode='w') as archive:
        archive.addfile(tarfile.TarInfo('pickle'))
    return file.getvalue()


OTHER = {
    'zeros': bytes(10**6),
    'few zeros': bytes(7),
    'zeros, then a zip file': bytes(1024) + zip_of(_HONEST),
    'tar': _tar(),
    'tar and a zip file': _tar() + zip_of(_HONEST),
    'tar in gzip': _tar_with_a_long_name(gzip.compress),
    'tar in bz2': _tar_with_a_long_name(bz2.compress),
    'tar in xz': _tar_with_a_long_name(lzma.compress),
    'web page': b'<html>Not Found</html>',
    'pointer of Git LFS': b'version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n',
    'one byte': b'P',
}

HOSTILE = {
    f'{kind}: {what}': content
    for kind, files in dict(
        growing=GROWING, tensors=TENSORS, instructions=INSTRUCTIONS, zip=ZIPS, legacy=LEGACY, other=OTHER
    ).items()
    for what, content in files.items()
}
HONEST = {
    'zip': file_of(WEIGHTS, _0=FOUR),
    'ZIP64': zip_of_64(_HONEST),
    'legacy': _FILE,
    'hooks': file_of(dict_of(w=tensor(storage('0', 4), (4,), (1,), 0, NO_HOOKS)), _0=FOUR),
}
