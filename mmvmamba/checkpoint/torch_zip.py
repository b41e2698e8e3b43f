"""The format of `torch.save` since PyTorch 1.6: a pickle and one record per storage in a zip file."""

import io
import sys
from typing import Any, BinaryIO

import torch

from .archive import Archive
from .budget import CALL, Budget
from .errors import DamagedContent, UnsafeCheckpoint
from .map_location import MapLocation, restore
from .pickle_reader import PickleReader
from .tensors import Storage

PICKLE, BYTE_ORDER, STORAGE = 'data.pkl', 'byteorder', 'data/'
BYTE_ORDERS = {b'little': 'little', b'big': 'big'}


def read_zip(file: BinaryIO, map_location: MapLocation) -> Any:
    """Reads all records, verifies their checksums, and builds the content of the file.

    Args:
        file: a file for which `is_zip` is true.
        map_location: as in `torch.load`.

    Raises:
        DamagedContent: the file is damaged.
        CheckpointError: a TorchScript program, or storages for a device that this machine does not have.
        UnsafeCheckpoint: the file contains more than data, or exceeds a limit.
    """
    archive = Archive(file)
    budget = Budget(archive.size)
    budget.spend(CALL * len(archive.records))
    contents = {
        name: torch.empty(record.size, dtype=torch.uint8, device='cpu')
        for name, record in archive.records.items()
        if name in (PICKLE, BYTE_ORDER) or name.startswith(STORAGE)
    }
    archive.read(
        (record, contents[name].numpy().data if name in contents else None) for name, record in archive.records.items()
    )
    if PICKLE not in contents:
        raise DamagedContent(f'it has no {PICKLE}')
    storages = _Storages(contents, map_location)
    content = contents.pop(PICKLE).numpy().tobytes()
    return PickleReader(io.BytesIO(content), len(content), budget, storages.load).load()


class _Storages:
    """The storages of a file. Each is built once, even if several tensors share it."""

    def __init__(self, contents: dict[str, torch.Tensor], map_location: MapLocation):
        self._contents, self._map_location = contents, map_location
        self._loaded: dict[str, tuple[Storage, int]] = {}
        order = contents[BYTE_ORDER].numpy().tobytes() if BYTE_ORDER in contents else b'little'  # before PyTorch 2.1
        if order not in BYTE_ORDERS:
            raise DamagedContent('its byte order is unknown')
        self._byte_order = BYTE_ORDERS[order]

    def load(self, dtype: torch.dtype | None, key: str, location: str, count: int) -> Storage:
        size = count * (dtype.itemsize if dtype else 1)
        if key not in self._loaded:
            if (content := self._contents.pop(STORAGE + key, None)) is None:
                raise DamagedContent(f'the record {STORAGE}{key} is missing')
            self._loaded[key] = self._build(content, dtype, location), len(content)
        storage, length = self._loaded[key]
        if size != length:
            raise DamagedContent(f'the record {STORAGE}{key} has {length} bytes, its tensors need {size}')
        if storage.dtype is not dtype:
            raise UnsafeCheckpoint('a storage of two types')
        return storage

    def _build(self, content: torch.Tensor, dtype: torch.dtype | None, location: str) -> Storage:
        storage = content.untyped_storage()
        if self._byte_order != sys.byteorder:
            if dtype is None:
                raise UnsafeCheckpoint('an untyped storage of the other byte order')
            if len(content) % dtype.itemsize == 0:
                storage.byteswap(dtype)
        check_booleans(content, dtype)
        return Storage(restore(storage, location, self._map_location), dtype)


def check_booleans(content: torch.Tensor, dtype: torch.dtype | None) -> None:
    """
    Raises:
        UnsafeCheckpoint: the bytes of booleans are neither 0 nor 1, which has no defined meaning in PyTorch.
    """
    if dtype is torch.bool and len(content) and content.max() > 1:
        raise UnsafeCheckpoint('a tensor of booleans that are neither true nor false')
