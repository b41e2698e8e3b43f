"""Checks image files before they are decoded: the type of the file, and the number of pixels in the header."""

import os
import stat
import struct
import warnings
from pathlib import Path
from typing import BinaryIO

from PIL import Image, UnidentifiedImageError

from ..errors import DataError, LaunchError

VARIABLE = 'MMVMAMBA_MAX_IMAGE_PIXELS'
DEFAULT = 178_956_970  # the limit of Pillow: 512 MiB in 8-bit RGB
BYTES_PER_PIXEL = 16  # four uncompressed channels of 32 bits

KINDS = {
    stat.S_IFDIR: 'folder',
    stat.S_IFCHR: 'device',
    stat.S_IFBLK: 'device',
    stat.S_IFIFO: 'named pipe',
    stat.S_IFSOCK: 'socket',
}


def pixel_limit() -> int:
    """Returns the largest allowed number of pixels, from the environment variable `MMVMAMBA_MAX_IMAGE_PIXELS`.

    Raises:
        LaunchError: the variable is not a positive integer.
    """
    value = os.environ.get(VARIABLE, '') or str(DEFAULT)
    if not (value.isascii() and value.isdigit() and int(value) > 0):
        raise LaunchError(f'{VARIABLE}={value} must be a positive integer, the number of pixels')
    return int(value)


def check_regular_file(path: str | Path) -> None:
    """Rejects devices, named pipes, sockets and folders. Reading them can block or never end.

    A path that does not exist is accepted: opening it raises an error.

    Raises:
        DataError: names the path and what it is.
    """
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return
    if not stat.S_ISREG(mode):
        raise DataError(f'{path} is a {KINDS.get(stat.S_IFMT(mode), "special file")}, not a regular file')


def check_image(path: str | Path) -> None:
    """Rejects what `check_regular_file` rejects, and images with more pixels than the limit, before they are decoded.

    If no size is found in the header, the file is accepted unless it has more bytes than any image within the limit.

    Raises:
        DataError: names the path, the size and the limit.
    """
    check_regular_file(path)
    limit = pixel_limit()
    too_large = f'more than the limit of {limit}: set {VARIABLE} to raise it if you trust the file'
    try:
        size, length = image_size(path), os.stat(path).st_size
    except Image.DecompressionBombError as error:  # Pillow compares before it returns the size
        raise DataError(f'{path} has too many pixels ({error}), {too_large}') from error
    except OSError:
        return
    if size and size[0] * size[1] > limit:
        raise DataError(f'{path} has {size[0]} x {size[1]} pixels, {too_large}')
    if length > BYTES_PER_PIXEL * limit:
        raise DataError(f'{path} has {length} bytes, like an image of {length // BYTES_PER_PIXEL} pixels, {too_large}')


def image_size(path: str | Path) -> tuple[int, int] | None:
    """Returns width and height from the header of an image, or None if they are not found.

    PNG, TIFF and JPEG headers are read here, since Pillow rejects some files that OpenCV decodes. Pillow reads the
    headers of other formats.

    Raises:
        DataError: the file is a PostScript program.
    """
    with open(path, 'rb') as file:
        head = file.read(24)
        try:
            if head.startswith(b'\x89PNG') and head[12:16] == b'IHDR':
                return struct.unpack('>II', head[16:24])
            if head[:4] in (b'II*\0', b'MM\0*', b'II+\0', b'MM\0+'):
                return _tiff_size(file, head)
            if head.startswith(b'\xff\xd8'):
                return _jpeg_size(file)
        except struct.error:  # truncated
            return None
        file.seek(0)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter('ignore')
                with Image.open(file) as image:
                    if image.format == 'EPS':  # Pillow would execute it in Ghostscript
                        raise DataError(f'{path} is a PostScript program, not an image: convert it to PNG')
                    return image.size
        except Image.DecompressionBombError:
            raise
        except (UnidentifiedImageError, OSError, ValueError, SyntaxError, EOFError, OverflowError, MemoryError):
            return None


def _tiff_size(file: BinaryIO, head: bytes) -> tuple[int, int] | None:
    """Reads the tags ImageWidth and ImageLength in the first directory of a TIFF or BigTIFF file."""
    order = '<' if head.startswith(b'I') else '>'
    big = b'+' in head[:4]
    (start,) = struct.unpack(f'{order}{"Q" if big else "I"}', head[8:16] if big else head[4:8])
    file.seek(start)
    (entries,) = struct.unpack(f'{order}{"Q" if big else "H"}', file.read(8 if big else 2))
    tags = {}
    for _ in range(min(entries, 65536)):
        tag, kind = struct.unpack(f'{order}HH', file.read(4))
        value = file.read(16 if big else 8)[8 if big else 4 :]
        if tag in (256, 257):
            code, length = {3: ('H', 2), 16: ('Q', 8)}.get(kind, ('I', 4))
            tags.setdefault(tag, struct.unpack(f'{order}{code}', value[:length])[0])
    return (tags[256], tags[257]) if len(tags) == 2 else None


def _jpeg_size(file: BinaryIO) -> tuple[int, int] | None:
    """Reads the first frame header (markers SOF0 to SOF15)."""
    file.seek(2)
    while byte := file.read(1):
        if byte != b'\xff':
            continue
        while (marker := file.read(1)) == b'\xff':
            pass
        code = marker[0] if marker else 0
        if 0xC0 <= code <= 0xCF and code not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack('>3xHH', file.read(7))
            return width, height
        if code in (0x00, 0x01) or 0xD0 <= code <= 0xD8:  # no segment follows
            continue
        if code in (0xD9, 0xDA):  # end of the image, or its data
            return None
        (length,) = struct.unpack('>H', file.read(2))
        file.seek(max(length - 2, 0), os.SEEK_CUR)
    return None
