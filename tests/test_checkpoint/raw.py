"""Pickles and zip files written byte by byte, as `torch.save` would not write them."""

import struct
import zlib

# Instructions of protocol 2


def text(value: str) -> bytes:
    encoded = value.encode('utf-8', 'surrogatepass')
    return b'X' + struct.pack('<I', len(encoded)) + encoded


def integer(value: int) -> bytes:
    length = (value.bit_length() + 8) // 8
    return b'\x8a' + bytes([length]) + value.to_bytes(length, 'little', signed=True)


def name(full_name: str) -> bytes:
    module, _, attribute = full_name.rpartition('.')
    return b'c' + module.encode() + b'\n' + attribute.encode() + b'\n'


def tuple_of(*parts: bytes) -> bytes:
    return b'(' + b''.join(parts) + b't'


def list_of(*parts: bytes) -> bytes:
    return b'](' + b''.join(parts) + b'e'


def dict_of(**parts: bytes) -> bytes:
    return b'}(' + b''.join(text(key) + value for key, value in parts.items()) + b'u'


def call(function: str, *arguments: bytes) -> bytes:
    return name(function) + tuple_of(*arguments) + b'R'


def keep(value: bytes, place: int) -> bytes:
    """The value, on the stack and in the memo."""
    return value + b'q' + bytes([place])


def again(place: int) -> bytes:
    return b'h' + bytes([place])


def pickled(value: bytes, protocol: int = 2) -> bytes:
    return b'\x80' + bytes([protocol]) + value + b'.'


NO_HOOKS = call('collections.OrderedDict')


def storage(key: str, count: int, kind: str = 'torch.FloatStorage', location: str = 'cpu', *view: bytes) -> bytes:
    return tuple_of(text('storage'), name(kind), text(key), text(location), integer(count), *view) + b'Q'


def tensor(content: bytes, size: tuple, stride: tuple, offset: int = 0, hooks: bytes = NO_HOOKS) -> bytes:
    shape = (tuple_of(*map(integer, numbers)) for numbers in (size, stride))
    return call('torch._utils._rebuild_tensor_v2', content, integer(offset), *shape, b'\x89', hooks)


def array(shape: tuple, dtype: str, content: bytes) -> bytes:
    """A `numpy.ndarray`; the content is an instruction that makes bytes."""
    kind = call('numpy.dtype', text(dtype), b'\x89', b'\x88')
    kind += tuple_of(integer(3), text('<'), b'N', b'N', b'N', integer(-1), integer(-1), integer(0)) + b'b'
    empty = call('numpy.core.multiarray._reconstruct', name('numpy.ndarray'), tuple_of(integer(0)), raw_bytes(b'b'))
    return empty + tuple_of(integer(1), tuple_of(*map(integer, shape)), kind, b'\x89', content) + b'b'


def raw_bytes(value: bytes) -> bytes:
    return call('_codecs.encode', text(value.decode('latin1')), text('latin1'))


# Zip files


def record(name: str, content: bytes, **fields) -> dict:
    """One record; `fields` overwrite what the headers say about it."""
    right = dict(name=name.encode(), stored=content, size=len(content), crc=zlib.crc32(content), method=0, flags=0)
    return right | fields


def deflated(name: str, content: bytes) -> dict:
    packed = zlib.compressobj(9, zlib.DEFLATED, -15)
    return record(name, content, stored=packed.compress(content) + packed.flush(), method=8)


def local(entry: dict) -> bytes:
    shown = entry.get('local_name', entry['name'])
    fields = entry['flags'], entry['method'], 0, 0, entry['crc'], len(entry['stored']), entry['size'], len(shown), 0
    return struct.pack('<4s5H3I2H', b'PK\3\4', 20, *fields) + shown + entry['stored']


def central(entry: dict, offset: int) -> bytes:
    sizes = entry['crc'], entry.get('stored_size', len(entry['stored'])), entry['size']
    fields = entry['flags'], entry['method'], 0, 0, *sizes, len(entry['name']), 0, 0, entry.get('disk', 0), 0, 0, offset
    return struct.pack('<4s6H3I5H2I', b'PK\1\2', 20, 20, *fields) + entry['name']


def end(count: int, size: int, offset: int, comment: bytes = b'') -> bytes:
    return struct.pack('<4s4H2IH', b'PK\5\6', 0, 0, count, count, size, offset, len(comment)) + comment


def end_64(count: int, size: int, offset: int, at: int) -> bytes:
    """The record and its locator; `at` is where the record is in the file."""
    record = struct.pack('<4sQ2H2I4Q', b'PK\6\6', 44, 45, 45, 0, 0, count, count, size, offset)
    return record + struct.pack('<4sIQI', b'PK\6\7', 0, at, 1)


def body(records: list[dict], start: int = 0) -> tuple[bytes, bytes]:
    """The records, and the directory that describes them."""
    content = directory = b''
    for entry in records:
        directory += central(entry, entry.get('at', start + len(content)))
        content += local(entry)
    return content, directory


def zip_of(records: list[dict], comment: bytes = b'', **changes: int) -> bytes:
    content, directory = body(records)
    where = dict(count=len(records), size=len(directory), offset=len(content)) | changes
    return content + directory + end(**where, comment=comment)


def zip_of_64(records: list[dict], **changes: int) -> bytes:
    """With a ZIP64 record, as `torch.save` writes it; `changes` apply to this record alone."""
    content, directory = body(records)
    where = dict(count=len(records), size=len(directory), offset=len(content))
    at = changes.pop('at', len(content) + len(directory))
    return content + directory + end_64(**where | changes, at=at) + end(**where)


def records_of(value: bytes, **storages: bytes) -> list[dict]:
    return [
        record('a/data.pkl', pickled(value)),
        record('a/byteorder', b'little'),
        *(record(f'a/data/{key[1:]}', content) for key, content in storages.items()),
        record('a/version', b'3\n'),
    ]


def file_of(value: bytes, **storages: bytes) -> bytes:
    """A file whose content is what the instructions make; storages are named `_0`, `_1`, ..."""
    return zip_of(records_of(value, **storages))


def two_directories(shown: list[dict], hidden: list[dict]) -> bytes:
    """A zip file with one directory right before its end, and another one where the end says that it is."""
    content, directory = body(hidden)
    first = content + directory
    # a reader that expects the directory at the end shifts all offsets by the distance
    shift = len(first) - len(content)
    shown_content, shown_directory = body(shown, start=len(first) - shift - sum(len(local(entry)) for entry in shown))
    return first + shown_content + shown_directory + end(len(shown), len(shown_directory), len(content))
