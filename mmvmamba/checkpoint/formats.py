"""The file formats of checkpoints, which are identified by their first bytes."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .archive import is_zip
from .errors import CheckpointError, DamagedContent, DamagedFile, UnsafeCheckpoint, reason_of
from .legacy_file import read_legacy
from .map_location import MapLocation, check_map_location
from .torch_zip import read_zip

TAR_BLOCK = 512  # bytes of the header
TAR_SIGNATURE = slice(257, 262)
LARGEST_HEADER = 2**23  # bytes in a safetensors file of any size, which describe some 80,000 tensors


def read_as_data(path: Path, map_location: MapLocation) -> Any:
    """Reads a file without executing anything in it.

    Returns:
        Numbers, strings, tensors without attributes, NumPy arrays and scalars of numbers and strings, `HistoryBuffer`,
        `argparse.Namespace`, and dicts, lists, tuples and sets of these.

    Raises:
        UnsafeCheckpoint: the file contains more than data, or exceeds the limit of memory or time for its size.
        DamagedFile: the file is empty, damaged or not a checkpoint.
        CheckpointError: the file cannot be read on this machine, or not to `map_location`.
    """
    check_map_location(map_location)
    try:
        return _read(path, map_location)
    except (UnsafeCheckpoint, DamagedFile):
        raise
    except CheckpointError as error:
        raise error if str(path) in str(error) else CheckpointError(f'{path} cannot be read: {error}') from error
    except (MemoryError, OSError) as error:  # the file may be intact
        raise CheckpointError(
            f'{path} cannot be read ({reason_of(error)}): solve this problem, or copy the file again'
        ) from error
    except Exception as error:  # an error of safetensors, or an unforeseen one
        reason = str(error) if isinstance(error, DamagedContent) else reason_of(error)
        raise DamagedFile(
            f'{path} is not a PyTorch checkpoint, or it is truncated or damaged ({reason}): copy or download it again'
        ) from error


def _read(path: Path, map_location: MapLocation) -> Any:
    with path.open('rb') as file:
        header = file.read(TAR_BLOCK)
        if not header:
            raise DamagedFile(f'checkpoint {path} is empty: copy or download it again')
        if not any(header):
            raise DamagedFile(
                f'{path} begins with zeros, as after a crash or an unfinished download: copy or download it again'
            )
        if path.suffix == '.safetensors':
            _check_safetensors(header, path.stat().st_size)
            return _read_safetensors(path, map_location)
        if header[TAR_SIGNATURE] == b'ustar':
            # before 2.6 torch could run code from this format even with weights_only (CVE-2025-32434)
            raise UnsafeCheckpoint('the tar format of torch 0.1')
        return read_zip(file, map_location) if is_zip(file) else read_legacy(file, map_location)


def _check_safetensors(header: bytes, size: int) -> None:
    # in memory, the description of a tensor is twenty times as large
    if int.from_bytes(header[:8], 'little') > LARGEST_HEADER + size // 32:
        raise DamagedContent('its header is far longer than its tensors need')


def _read_safetensors(path: Path, map_location: MapLocation) -> dict[str, Tensor]:
    if find_spec('safetensors') is None:
        raise CheckpointError(f'{path} needs safetensors, which is not installed: pip install safetensors')
    from safetensors.torch import load_file

    # the file names no devices that a dict or a function could map
    return load_file(path, str(map_location) if isinstance(map_location, (str, torch.device)) else 'cpu')
