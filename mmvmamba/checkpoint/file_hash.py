"""The hash in the name of a file, as in model zoos: NAME-1a2b3c4d.pth."""

import hashlib
import re
from datetime import datetime
from pathlib import Path

from .errors import DamagedFile

PIECE = 2**20


def check_file_hash(path: Path) -> None:
    """Compares the SHA-256 of a file with the digits at the end of its name, if it has any.

    Raises:
        DamagedFile: the file has another hash.
    """
    expected = re.search(r'-([0-9a-f]{8,64})\.[a-z]+$', path.name)
    if expected is None or _is_date(expected[1]):
        return
    digest = hashlib.sha256()
    with path.open('rb') as file:
        while piece := file.read(PIECE):
            digest.update(piece)
    if not digest.hexdigest().startswith(expected[1]):
        raise DamagedFile(
            f'{path} is damaged or was changed: its SHA-256 starts with {digest.hexdigest()[:8]}, unlike the digits in '
            'its name: copy or download it again, or rename it if the digits are not a hash'
        )


def _is_date(digits: str) -> bool:
    try:
        return len(digits) == 8 and 1990 <= datetime.strptime(digits, '%Y%m%d').year < 2100
    except ValueError:
        return False
