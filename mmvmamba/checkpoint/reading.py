"""Reading checkpoint files without running what is in them.

A checkpoint is a pickle, and unpickling can run any code. Files are therefore read as data, with a short list of the
further types that released files hold; anything else needs an explicit opt-in.
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

from .errors import CheckpointError, DamagedFile, UnsafeCheckpoint, listing, one_line
from .file_hash import check_file_hash
from .formats import read_as_data
from .locating import is_download, local_path

_trust_all: ContextVar[bool] = ContextVar('trust_checkpoints', default=False)


@contextmanager
def trust_checkpoints(trust: bool = True) -> Iterator[None]:
    """Inside this context, and in no other thread, `read_checkpoint` trusts every file: `--trust-checkpoint`."""
    token = _trust_all.set(trust)
    try:
        yield
    finally:
        _trust_all.reset(token)


def read_checkpoint(filename: str | Path, map_location: Any = 'cpu', trust: bool = False) -> dict:
    """Reads a checkpoint file as data, after comparing the checksums that it has.

    Args:
        filename: a local file, `.safetensors` included; an http(s) URL, which is downloaded once into the cache of
            torch.hub; or `hf://OWNER/REPOSITORY/FILE`, which huggingface_hub downloads into its own.
        map_location: as in `torch.load`.
        trust: unpickle the file if it holds more than tensors, plain values and the known types. This runs whatever
            code the file names.

    Returns:
        The content; a `yacs` config inside it becomes an `OrderedDict`.

    Raises:
        CheckpointError: the file is missing, damaged, not a checkpoint, or holds what only unpickling could restore.
    """
    path = local_path(str(filename))
    try:
        check_file_hash(path)
        content = read_as_data(path, map_location)
    except UnsafeCheckpoint as unsafe:
        if not (trust or _trust_all.get()):
            raise CheckpointError(
                f'{filename} was refused and nothing in it was run: it holds {unsafe}; only unpickling could restore '
                'that, and unpickling can run any code: pass --trust-checkpoint to the tool (trust=True to '
                'read_checkpoint) if you trust the author of the file'
            ) from None
        content = _unpickle(path, filename, map_location)
    except DamagedFile as error:
        if not is_download(path):
            raise
        if os.environ.get('LOCAL_RANK', '0') == '0':
            path.unlink(missing_ok=True)
        raise DamagedFile(f'{error} (what came from {filename} is deleted: the next call loads it anew)') from error
    if not isinstance(content, dict):
        raise CheckpointError(
            f'{filename} is not a checkpoint: it holds a {type(content).__name__} instead of a dict with tensors'
        )
    return content


def _unpickle(path: Path, filename: str | Path, map_location: Any) -> Any:
    try:
        return torch.load(path, map_location=map_location, weights_only=False)
    except Exception as error:  # the file runs its own code
        reason = one_line(f'{type(error).__name__}: {error}', 300)
        raise CheckpointError(
            f'{filename} cannot be unpickled ({reason}): install what it needs, or save its tensors alone'
        ) from error


def unwrap_state_dict(
    checkpoint: dict, filename: str | Path = 'the checkpoint', ema: bool = False
) -> OrderedDict[str, Tensor]:
    """Finds the tensors of a checkpoint: under `state_dict`, under `model`, or the dict itself.

    Args:
        checkpoint: what `read_checkpoint` returns.
        filename: only named in the error.
        ema: take the averaged weights, under `model_ema`, instead. (In a file of mmengine's EMAHook the average is the
            `state_dict`.)

    Returns:
        The tensors, without the `module.` that a saved DistributedDataParallel leaves; their `_metadata` are the
        versions of the modules.

    Raises:
        CheckpointError: no tensors there; names the keys that there are.
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
                raise CheckpointError(f'{filename} has two tensors of one name, with and without module. before it')
            if empty := [name for name, value in state_dict.items() if value.is_meta]:
                raise CheckpointError(
                    f'{filename} has shapes but no values for {listing(empty)}: save the real tensors'
                )
            vars(state_dict)['_metadata'] = _versions(getattr(place, '_metadata', {}), filename)
            return state_dict
    raise CheckpointError(f'{filename} holds no {searched}; its keys are: {listing(checkpoint)}')


def _is_named_tensor(name: Any, value: Any) -> bool:
    return isinstance(name, str) and isinstance(value, Tensor)


def _versions(metadata: Any, filename: str | Path) -> OrderedDict[str, dict]:
    """The versions of its modules, which some of them need to read an old file."""
    for name, entry in metadata.items():
        if (
            not isinstance(name, str)
            or not isinstance(entry, dict)
            or type(entry.get('version', 1)) not in (int, type(None))
        ):
            raise CheckpointError(f'{filename} is damaged: the versions of its modules (_metadata) are no numbers')
    return OrderedDict((name.removeprefix('module.'), entry) for name, entry in metadata.items())
