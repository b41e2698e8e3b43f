"""Whether the bytes of a file are what was written: checksums, inside the file and in its name."""

import hashlib
import re
import zipfile
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

import torch

from .errors import CheckpointError, DamagedFile, Refused

LARGEST_NOTE = 2**20  # bytes, of a record that is neither the pickle nor a tensor: they take some ten bytes
PIECE = 2**20


def is_zip(file: BinaryIO) -> bool:
    """Whether PyTorch takes this for its zip format; `zipfile.is_zipfile` also takes a zip at the end of other data."""
    file.seek(0)
    return file.read(4) == b'PK\x03\x04'


def check_archive(file: BinaryIO) -> None:
    """Go through the records of a file that `is_zip`; PyTorch itself compares no checksum.

    Files that were written without checksums (`torch.serialization.set_crc32_options(False)`) have a zero for each,
    and only their structure is checked.

    Raises:
        zipfile.BadZipFile: damaged.
        CheckpointError: a TorchScript program.
        Refused: records as PyTorch never writes them, which may unpack to any size.
    """
    with zipfile.ZipFile(file) as archive:
        records = archive.infolist()
        names = [record.filename for record in records]
        if any(name.partition('/')[2] == 'constants.pkl' for name in names):
            raise CheckpointError('it is a TorchScript program, not a checkpoint')
        if any(record.compress_type != zipfile.ZIP_STORED for record in records):
            raise Refused('compressed records, which PyTorch never writes')
        if len(set(names)) < len(names) or sum(record.file_size for record in records) > file.seek(0, 2):
            raise Refused('records that overlap, which PyTorch never writes')
        if any(record.file_size > LARGEST_NOTE and not _holds_data(record.filename) for record in records):
            raise Refused('a record of a size that PyTorch never writes')
        if any(record.CRC for record in records):
            for record in records:
                with archive.open(record) as content:
                    while content.read(PIECE):
                        pass  # zipfile compares the checksum at the end
    file.seek(0)
    inside = {name.partition('/')[2] for name in names}
    if set(torch._C.PyTorchFileReader(file).get_all_records()) - inside:
        raise zipfile.BadZipFile('two lists of its records')


def _holds_data(name: str) -> bool:
    return re.fullmatch(r'[^/]+/(data\.pkl|data/.+)', name) is not None


def check_name(path: Path) -> None:
    """Compare a file with the beginning of its SHA-256 that its name ends in, as in the model zoos: NAME-1a2b3c4d.pth.

    Raises:
        DamagedFile: they differ.
    """
    promised = re.search(r'-([0-9a-f]{8,64})\.[a-z]+$', path.name)
    if promised is None or _is_date(promised[1]):
        return
    digest = hashlib.sha256()
    with path.open('rb') as file:
        while piece := file.read(PIECE):
            digest.update(piece)
    if not digest.hexdigest().startswith(promised[1]):
        raise DamagedFile(
            f'{path} is damaged or was changed: the end of its name is the beginning of a SHA-256, and its own begins '
            f'with {digest.hexdigest()[:8]}: copy or download it again, or rename it if the name means something else'
        )


def _is_date(digits: str) -> bool:
    try:
        return len(digits) == 8 and 1990 <= datetime.strptime(digits, '%Y%m%d').year < 2100
    except ValueError:
        return False
