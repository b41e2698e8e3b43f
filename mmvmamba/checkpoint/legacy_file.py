"""The format of `torch.save` before PyTorch 1.6: five pickles, then the content of the storages."""

import pickle
import struct
import sys
from io import BufferedReader
from typing import Any

import torch

from .budget import Budget
from .errors import DamagedContent, UnsafeCheckpoint
from .map_location import MapLocation, restore
from .pickle_reader import PickleReader
from .tensors import Storage
from .torch_zip import check_booleans

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
PROTOCOL_VERSION = 1001
_COUNT = struct.Struct('<q')


def read_legacy(file: BufferedReader, map_location: MapLocation) -> Any:
    """Builds the content of a file. Such a file has no checksums.

    The content of the storages comes last. The pickle that needs them is therefore read twice: first with storages that
    have only a size, then with their content.

    Args:
        file: opened for reading.
        map_location: as in `torch.load`.

    Raises:
        DamagedContent: the file is damaged or of another format; a storage is missing.
        CheckpointError: storages for a device that this machine does not have.
        UnsafeCheckpoint: the file contains more than data, or exceeds a limit.
    """
    size = file.seek(0, 2)
    file.seek(0)
    if file.read(1) != pickle.PROTO:
        raise DamagedContent('its format is unknown')
    file.seek(0)

    def read_pickle(load_storage=None) -> Any:
        return PickleReader(file, size, Budget(size), load_storage).load()

    if read_pickle() != MAGIC_NUMBER or read_pickle() != PROTOCOL_VERSION:
        raise DamagedContent('its format is unknown')
    read_pickle()  # properties of the machine that wrote the file
    start = file.tell()
    sizes = _Sizes()
    read_pickle(sizes.load)
    keys = read_pickle()
    if type(keys) is not list or not all(type(key) is str for key in keys) or sorted(keys) != sorted(sizes.storages):
        raise DamagedContent('a storage is missing')
    contents = {key: _read_storage(file, size, *sizes.storages[key]) for key in keys}
    if file.tell() != size:
        raise DamagedContent('it does not end after its last storage')
    file.seek(start)
    loaded: dict[str, Storage] = {}

    def load_storage(dtype: torch.dtype | None, key: str, location: str, count: int) -> Storage:
        if key not in loaded:
            content = contents.pop(key)
            check_booleans(content, dtype)
            loaded[key] = Storage(restore(content.untyped_storage(), location, map_location), dtype)
        return loaded[key]

    return read_pickle(load_storage)


class _Sizes:
    """Collects the types and sizes of the storages that a pickle refers to."""

    def __init__(self):
        self.storages: dict[str, tuple[torch.dtype | None, int]] = {}

    def load(self, dtype: torch.dtype | None, key: str, location: str, count: int) -> Storage:
        if self.storages.setdefault(key, (dtype, count)) != (dtype, count):
            raise UnsafeCheckpoint('a storage of two types or sizes')
        size = count * (dtype.itemsize if dtype else 1)
        return Storage(torch.UntypedStorage(size, device='meta'), dtype)


def _read_storage(file: BufferedReader, size: int, dtype: torch.dtype | None, count: int) -> torch.Tensor:
    """Reads the number of elements of a storage, and its bytes."""
    number = file.read(_COUNT.size)
    length = count * (dtype.itemsize if dtype else 1)
    if len(number) < _COUNT.size or length > size - file.tell():
        raise DamagedContent('it is truncated')
    if _COUNT.unpack(number)[0] != count:
        raise DamagedContent('a storage has another size than its tensors need')
    content = torch.empty(length, dtype=torch.uint8, device='cpu')
    if file.readinto(content.numpy().data) != length:
        raise DamagedContent('it is truncated')
    if sys.byteorder == 'big' and dtype:
        content.untyped_storage().byteswap(dtype)
    return content
