"""Reading of checkpoint files without executing code in them.

A checkpoint is a pickle, and unpickling can execute any code. Files are therefore read as data, with a short list of
additional types that released files contain. Anything else needs an explicit opt-in.
"""

import os
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .errors import CheckpointError, DamagedFile, UnsafeCheckpoint, listing, reason_of
from .file_hash import check_file_hash
from .formats import read_as_data
from .locating import is_download, local_path

_trust_all: ContextVar[bool] = ContextVar('trust_checkpoints', default=False)


@contextmanager
def trust_checkpoints(trust: bool = True) -> Iterator[None]:
    """Context in which `read_checkpoint` trusts all files, in the current thread only: `--trust-checkpoint`."""
    token = _trust_all.set(trust)
    try:
        yield
    finally:
        _trust_all.reset(token)


def read_checkpoint(filename: str | Path, map_location: Any = 'cpu', trust: bool = False) -> dict:
    """Reads a checkpoint file as data, and verifies its checksums.

    Args:
        filename: a local file (also `.safetensors`), an http(s) URL, which is downloaded once to the cache of
            torch.hub, or `hf://OWNER/REPOSITORY/FILE`, which huggingface_hub downloads to its cache.
        map_location: as in `torch.load`.
        trust: unpickle the file if it contains more than tensors, plain values and the known types. This executes any
            code that the file contains.

    Returns:
        The content. A `yacs` config becomes an `OrderedDict`.

    Raises:
        CheckpointError: the file is missing, damaged, not a checkpoint, or contains more than data.
    """
    path = local_path(str(filename))
    try:
        check_file_hash(path)
        content = read_as_data(path, map_location)
    except UnsafeCheckpoint as unsafe:
        if not (trust or _trust_all.get()):
            raise CheckpointError(
                f'{filename} was rejected without executing it, because it contains {unsafe}: if you trust its author, '
                'pass --trust-checkpoint to the tool (trust=True to read_checkpoint), which unpickles the file and can '
                'execute any code'
            ) from None
        content = _unpickle(path, filename, map_location)
    except DamagedFile as error:
        if not is_download(path):
            raise
        if os.environ.get('LOCAL_RANK', '0') == '0':
            path.unlink(missing_ok=True)
        raise DamagedFile(f'{error} (the download of {filename} was deleted, and the next call repeats it)') from error
    if not isinstance(content, dict):
        raise CheckpointError(
            f'{filename} is not a checkpoint: it contains a {type(content).__name__}; save the state_dict() of a model '
            'instead'
        )
    return content


def _unpickle(path: Path, filename: str | Path, map_location: Any) -> Any:
    try:
        return torch.load(path, map_location=map_location, weights_only=False)
    except Exception as error:  # the file executes its own code
        raise CheckpointError(
            f'{filename} cannot be unpickled ({reason_of(error, 300)}): install the packages that it needs, '
            'or save only its tensors'
        ) from error


def unwrap_state_dict(
    checkpoint: dict, filename: str | Path = 'the checkpoint', ema: bool = False
) -> OrderedDict[str, Tensor]:
    """Finds the tensors of a checkpoint: under `state_dict`, under `model`, or the dict itself.

    Args:
        checkpoint: the result of `read_checkpoint`.
        filename: the name of the checkpoint for error messages.
        ema: return the averaged weights, under `model_ema`. In files of mmengine's EMAHook, the averaged weights are
            the `state_dict`.

    Returns:
        The tensors, without the prefix `module.` of DistributedDataParallel, and with the versions of the modules as
        `_metadata`.

    Raises:
        CheckpointError: there are no tensors under these keys; names the keys of the checkpoint.
    """
    if ema:
        searched, places = "averaged weights under 'model_ema'", [checkpoint.get('model_ema')]
    else:
        searched = "weights under 'state_dict', under 'model' or at its top level"
        places = [checkpoint.get('state_dict'), checkpoint.get('model'), checkpoint]
    for place in places:
        if isinstance(place, dict) and place and all(map(_is_named_tensor, place, place.values())):
            state_dict = OrderedDict((name.removeprefix('module.'), value) for name, value in place.items())
            if len(state_dict) < len(place):
                raise CheckpointError(
                    f'{filename} has two tensors with the same key, with and without the prefix module.: save only '
                    'one of the models'
                )
            if empty := [name for name, value in state_dict.items() if value.is_meta]:
                raise CheckpointError(
                    f'{filename} has shapes but no values for {listing(empty)}: load its weights before saving it'
                )
            vars(state_dict)['_metadata'] = _versions(getattr(place, '_metadata', {}), filename)
            return state_dict
    raise CheckpointError(f'{filename} has no {searched}; its keys are: {listing(checkpoint)}')


def _is_named_tensor(name: Any, value: Any) -> bool:
    return isinstance(name, str) and isinstance(value, Tensor)


def _versions(metadata: Any, filename: str | Path) -> OrderedDict[str, dict]:
    """Returns the versions of the modules, which some modules need to load an old file."""
    for name, entry in metadata.items():
        if (
            not isinstance(name, str)
            or not isinstance(entry, dict)
            or type(entry.get('version', 1)) not in (int, type(None))
        ):
            raise CheckpointError(
                f'{filename} is damaged (the versions of its modules, _metadata, are not numbers): use another copy'
            )
    return OrderedDict((name.removeprefix('module.'), entry) for name, entry in metadata.items())
