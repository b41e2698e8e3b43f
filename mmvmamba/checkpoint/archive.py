"""Zip files as `torch.save` writes them: uncompressed records, followed by a single directory.

The same parser verifies the directory and reads the records, so no second parser can interpret the file differently.
"""

import os
import struct
import zlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO, NamedTuple

from .errors import CheckpointError, DamagedContent, UnsafeCheckpoint

PIECE = 2**18  # bytes, which stay in the CPU's cache between reading and the checksum
WORKERS = 4
SMALL = 2**22  # bytes; one thread reads smaller files faster than several threads

# The layouts of the zip format; '4s' is a signature.
_END = struct.Struct('<4s4H2IH')
_END_64 = struct.Struct('<4sQ2H2I4Q')
_LOCATOR_64 = struct.Struct('<4sIQI')
_ENTRY = struct.Struct('<4s6H3I5H2I')
_HEADER = struct.Struct('<4s5H3I2H')
_FULL_16, _FULL_32 = 2**16 - 1, 2**32 - 1  # the value is in the ZIP64 record


class Record(NamedTuple):
    start: int  # of its content in the file
    size: int
    crc: int
    name: str


def is_zip(file: BinaryIO) -> bool:
    """Whether a file starts with the signature of a zip file."""
    file.seek(0)
    return file.read(4) == b'PK\x03\x04'


def check_archive(file: BinaryIO) -> None:
    """Verifies the checksums of a file for which `is_zip` is true.

    Raises:
        DamagedContent: the file is damaged.
        CheckpointError: the file is a TorchScript program.
        UnsafeCheckpoint: `torch.save` does not write such zip files.
    """
    archive = Archive(file)
    archive.read((record, None) for record in archive.records.values())


class Archive:
    """The records of a zip file.

    Args:
        file: opened for reading, with a file descriptor.

    Attributes:
        records: by name, without the folder that all of them are in.
        size: of the file, in bytes.

    Raises:
        DamagedContent, CheckpointError, UnsafeCheckpoint: as in `check_archive`.
    """

    def __init__(self, file: BinaryIO):
        self._file, self.size = file, file.seek(0, 2)
        count, offset, size = self._find_directory()
        entries = self._read_directory(count, offset, size)
        self.records = self._locate(entries, offset)
        # torch.serialization.set_crc32_options(False) leaves a zero for each
        self._has_checksums = any(record.crc for record in self.records.values())

    def _unpack(self, layout: struct.Struct, offset: int, signature: bytes) -> tuple:
        """Returns the fields after the signature."""
        if offset < 0:
            raise DamagedContent('it is too short')
        self._file.seek(offset)
        content = self._file.read(layout.size)
        if len(content) < layout.size or not content.startswith(signature):
            raise DamagedContent('its end is missing' if signature == b'PK\5\6' else 'its directory is damaged')
        return layout.unpack(content)[1:]

    def _find_directory(self) -> tuple[int, int, int]:
        """Returns the number of records, and offset and size of the directory, which must precede the end records."""
        end = self.size - _END.size
        disk, first_disk, count_here, count, size, offset, comment = self._unpack(_END, end, b'PK\5\6')
        if (disk, first_disk, comment) != (0, 0, 0) or count_here != count:
            raise UnsafeCheckpoint('a zip file with a comment or of several parts, which torch.save never writes')
        locator = end - _LOCATOR_64.size
        self._file.seek(max(locator, 0))
        if self._file.read(4) == b'PK\6\7':
            _, end, _ = self._unpack(_LOCATOR_64, locator, b'PK\6\7')
            fields = self._unpack(_END_64, end, b'PK\6\6')
            if end + _END_64.size != locator or fields[0] != _END_64.size - 12:
                raise UnsafeCheckpoint('a zip file with two ends, which torch.save never writes')
            for short, long, full in zip((count, size, offset), fields[6:], (_FULL_16, _FULL_32, _FULL_32)):
                if short not in (long, full):
                    raise UnsafeCheckpoint('a zip file with two directories, which torch.save never writes')
            count, size, offset = fields[6:]
        if offset + size != end:
            raise UnsafeCheckpoint('a zip file with two directories, which torch.save never writes')
        return count, offset, size

    def _read_directory(self, count: int, offset: int, size: int) -> list[tuple[int, Record]]:
        """Returns the offset of each header, and the record without the offset of its content."""
        if count * _ENTRY.size > size:
            raise DamagedContent('its directory is damaged')
        entries, end, is_compressed = [], offset + size, False
        for _ in range(count):
            fields = self._unpack(_ENTRY, offset, b'PK\1\2')
            _, _, flags, method, _, _, crc, stored, size, name, extra, comment, disk, _, _, header = fields
            variable = self._file.read(name + extra + comment)
            offset += _ENTRY.size + name + extra + comment
            if len(variable) < name + extra + comment or offset > end:
                raise DamagedContent('its directory is damaged')
            if flags & 1 or disk:
                raise UnsafeCheckpoint('an encrypted or divided zip file, which torch.save never writes')
            size, stored, header = _long_values(variable[name : name + extra], size, stored, header)
            is_compressed = is_compressed or method != 0 or size != stored
            entries.append((header, Record(0, size, crc, _decoded(variable[:name]))))
        if offset != end:
            raise UnsafeCheckpoint('a zip file with two directories, which torch.save never writes')
        if any(record.name.partition('/')[2] == 'constants.pkl' for _, record in entries):
            raise CheckpointError('it is a TorchScript program, not a checkpoint')
        if is_compressed:
            raise UnsafeCheckpoint('compressed records, which torch.save never writes')
        return entries

    def _locate(self, entries: list[tuple[int, Record]], directory: int) -> dict[str, Record]:
        """Returns the records with the offsets of their content, after checking that they do not overlap."""
        records, end, folders = {}, 0, set()
        for header, record in sorted(entries):
            _, _, method, _, _, _, _, _, name, extra = self._unpack(_HEADER, header, b'PK\3\4')
            start = header + _HEADER.size + name + extra
            if header < end or start + record.size > directory:
                raise UnsafeCheckpoint(
                    'records that overlap or do not fit into the file, which torch.save never writes'
                )
            if method or _decoded(self._file.read(name)) != record.name:
                raise UnsafeCheckpoint('a record with two names, which torch.save never writes')
            end = start + record.size
            folder, _, inner = record.name.partition('/')
            folders.add(folder)
            if inner in records or len(folders) > 1:
                raise UnsafeCheckpoint('records of one name or in several folders, which torch.save never writes')
            records[inner] = record._replace(start=start)
        return records

    def read(self, targets: Iterable[tuple[Record, memoryview | None]]) -> None:
        """Reads records into buffers, or only verifies the checksum of a record whose buffer is None.

        Raises:
            DamagedContent: a record has another checksum.
        """
        targets = sorted(targets, key=lambda target: target[0].size, reverse=True)
        if sum(record.size for record, _ in targets) <= SMALL:
            self._read_share(targets)
            return
        with ThreadPoolExecutor(WORKERS) as pool:
            list(pool.map(self._read_share, (targets[number::WORKERS] for number in range(WORKERS))))

    def _read_share(self, targets: list[tuple[Record, memoryview | None]]) -> None:
        spare = None
        for record, memory in targets:
            if memory is None and spare is None:
                spare = memoryview(bytearray(PIECE))
            crc = 0
            for done in range(0, record.size, PIECE):
                length = min(PIECE, record.size - done)
                # pyright does not see that spare has been allocated if memory is None
                piece = spare[:length] if memory is None else memory[done : done + length]  # pyright: ignore[reportOptionalSubscript]
                if os.preadv(self._file.fileno(), [piece], record.start + done) != length:
                    raise DamagedContent('it is truncated')
                if self._has_checksums:
                    crc = zlib.crc32(piece, crc)
            if self._has_checksums and crc != record.crc:
                raise DamagedContent(f'wrong CRC of {record.name}')


def _long_values(extra: bytes, *fields: int) -> list[int]:
    """Returns fields of the directory; those that do not fit into 32 bits are in the ZIP64 field."""
    values = list(fields)
    while len(extra) >= 4:
        kind, length = struct.unpack_from('<2H', extra)
        if kind == 1:
            numbers = iter(struct.unpack_from(f'<{length // 8}Q', extra, 4) if length <= len(extra) - 4 else ())
            values = [next(numbers, value) if value == _FULL_32 else value for value in values]
            break
        extra = extra[4 + length :]
    return values


def _decoded(name: bytes) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError:
        raise DamagedContent('the name of a record is damaged') from None
