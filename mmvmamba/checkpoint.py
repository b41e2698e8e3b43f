"""Reading checkpoint files without running what is in them, and refusing those that do not fit.

A checkpoint is a pickle, and unpickling can run any code. Files are therefore read with ``weights_only=True`` and a
short list of the further types that released files hold; anything else needs an explicit opt-in.
"""

import _codecs
import argparse
import logging
import os
import pickle
import re
import tarfile
from collections import OrderedDict
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.parse import urlparse

import numpy as np
import torch
from mmengine.dist import barrier
from mmengine.logging import HistoryBuffer, print_log
from mmengine.model import BaseTTAModel, is_model_wrapper
from torch import Tensor

_trust_all = False


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be read, is refused, or does not fit; the message is one sentence for the user."""


@contextmanager
def trust_checkpoints(trust=True):
    """Inside this context ``read_checkpoint`` trusts every file: what ``--trust-checkpoint`` of the tools does."""
    global _trust_all
    before, _trust_all = _trust_all, trust
    try:
        yield
    finally:
        _trust_all = before


def read_checkpoint(filename, map_location='cpu', trust=False):
    """Reads a checkpoint file as data.

    Args:
        filename (str | Path): a local file, or an http(s) URL, which is downloaded once into the cache of torch.hub.
        map_location: as in ``torch.load``.
        trust (bool): unpickle the file if it holds more than tensors, plain values and the known types. This runs
            whatever code the file names.

    Returns:
        dict: the content; a ``yacs`` config inside it becomes an ``OrderedDict``.

    Raises:
        CheckpointError: the file is missing, damaged, not a checkpoint, or holds what only unpickling could restore.
    """
    path = _local_path(str(filename))
    try:
        content = _load_safely(path, map_location)
    except _Refused as refused:
        if not (trust or _trust_all):
            raise CheckpointError(
                f'{filename} was refused and nothing in it was run: it holds {refused}, which only unpickling can '
                'restore, and that may run any code; if you trust whoever made the file, pass --trust-checkpoint to '
                'the tool (trust=True to read_checkpoint)'
            ) from None
        content = torch.load(path, map_location=map_location, weights_only=False)
    if not isinstance(content, dict):
        raise CheckpointError(
            f'{filename} is not a checkpoint: it holds a {type(content).__name__} instead of a dict with tensors'
        )
    return content


def unwrap_state_dict(checkpoint, filename='the checkpoint'):
    """Finds the tensors of a checkpoint: under ``state_dict``, under ``model``, or the dict itself.

    Args:
        checkpoint (dict): what ``read_checkpoint`` returns.
        filename (str): only named in the error.

    Returns:
        OrderedDict[str, Tensor]: names without the ``module.`` that a saved DistributedDataParallel leaves.

    Raises:
        CheckpointError: no tensors in any of the three places; names the keys that there are.
    """
    for candidate in (checkpoint.get('state_dict'), checkpoint.get('model'), checkpoint):
        if isinstance(candidate, dict) and candidate and all(isinstance(value, Tensor) for value in candidate.values()):
            state_dict = OrderedDict((name.removeprefix('module.'), value) for name, value in candidate.items())
            # the versions of its modules, which some of them need to read an old file
            state_dict._metadata = getattr(candidate, '_metadata', OrderedDict())
            return state_dict
    raise CheckpointError(
        f"{filename} holds no weights under 'state_dict', under 'model' or at its top level; "
        f'its keys are: {_listing(checkpoint)}'
    )


def load_pretrained(module, filename, prefix=''):
    """Loads the weights of a file into a module; renaming and strictness are up to the module's own load hooks.

    Args:
        module (nn.Module): receives the weights.
        filename (str): local file or URL.
        prefix (str): take only the tensors under this name, for instance ``'backbone.'`` of a detector's checkpoint.

    Raises:
        CheckpointError: the file is refused, has nothing under ``prefix``, or fits the module nowhere.
    """
    state_dict = unwrap_state_dict(read_checkpoint(filename), filename)
    if prefix:
        names, metadata = list(state_dict), state_dict._metadata
        state_dict = _below(state_dict, prefix)
        state_dict._metadata = _below(metadata, prefix)
        if not state_dict:
            raise CheckpointError(
                f"{filename} has no tensor whose name starts with '{prefix}'; it has: {_listing(names)}"
            )
    try:
        missing, unexpected = module.load_state_dict(state_dict, strict=False)
    except RuntimeError as error:  # ours from a load hook, or torch's own about shapes, which has several lines
        raise CheckpointError(f'{filename}: {" ".join(str(error).split())}') from error
    loaded = len(module.state_dict()) - len(missing)
    if loaded == 0:
        raise CheckpointError(f'{filename} holds no tensor of {type(module).__name__}; it has: {_listing(state_dict)}')
    unused = f', not used: {_listing(unexpected)}' if unexpected else ''
    print_log(f'{type(module).__name__}: {loaded} tensors loaded from {filename}{unused}', logger='current')


def check_fits(model, state_dict, filename, least=1.0):
    """Refuses weights that fit too little of a model, by loading them as mmengine will, load hooks included.

    Args:
        model (nn.Module): built model, bare or wrapped (distributed, test-time augmentation). What fits is loaded.
        state_dict (dict[str, Tensor]): from ``unwrap_state_dict``.
        filename (str): only named in messages.
        least (float): share of the model's tensors that must be in the file with the right shape: 1 to test or to
            resume, less to fine-tune.

    Raises:
        CheckpointError: fewer fit; lists names and shapes.
    """
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    missing, unexpected, errors = [], [], []
    metadata = getattr(state_dict, '_metadata', {})
    try:
        _load_into(model, OrderedDict(state_dict), metadata, '', missing, unexpected, errors)
    except CheckpointError as error:
        raise CheckpointError(f'{filename}: {error}') from error

    # a counter that old BatchNorm files lack and that changes no result: mmengine ignores it too
    missing = [name for name in missing if not name.endswith('num_batches_tracked')]
    misshapen = [_shape_difference(error) for error in errors]
    total = sum(not name.endswith('num_batches_tracked') for name in model.state_dict())
    loaded = total - len(missing) - len(misshapen)

    def differences(most=None):
        found = {'missing in the file': missing, 'of another shape': misshapen, 'unknown to the model': unexpected}
        return '; '.join(f'{len(names)} {what}: {_listing(names, most)}' for what, names in found.items() if names)

    if loaded < max(1, least * total):
        required = 'all' if least == 1 else f'at least {least:.0%}'
        raise CheckpointError(
            f'{filename} does not fit the model of this config: it has {loaded} of the {total} tensors of the model, '
            f'{required} must be there; {differences(most=10)}'
        )
    if differences():
        print_log(
            f'{filename} has {loaded} of the {total} tensors of the model; {differences()}',
            logger='current',
            level=logging.WARNING,
        )


# Finding and reading the file


def _local_path(filename):
    scheme = urlparse(filename).scheme if '://' in filename else ''
    if scheme in ('http', 'https'):
        return _download(filename)
    if scheme:
        raise CheckpointError(f'{filename} is neither a local file nor an http(s) URL: download it and give the path')
    path = Path(filename).expanduser()
    if not path.exists():
        raise CheckpointError(f'checkpoint {filename} does not exist')
    if not path.is_file():
        raise CheckpointError(f'checkpoint {filename} is not a file')
    return path


def _download(url):
    """Downloads with one process per machine; every rank must call it."""
    path = Path(torch.hub.get_dir(), 'checkpoints', Path(urlparse(url).path).name)
    try:
        if not path.exists() and os.environ.get('LOCAL_RANK', '0') == '0':
            path.parent.mkdir(parents=True, exist_ok=True)
            print_log(f'Downloading {url} to {path}', logger='current')
            torch.hub.download_url_to_file(url, str(path), progress=False)
    except (URLError, OSError) as error:
        raise CheckpointError(
            f'{url} cannot be downloaded ({error}): get it by other means and give its path'
        ) from error
    barrier()
    return path


class _Refused(Exception):
    """Carries the name of what is not allowed."""


def _load_safely(path, map_location):
    if path.stat().st_size == 0:
        raise CheckpointError(f'checkpoint {path} is empty: copy or download it again')
    try:
        # before 2.6 torch could run code from these two formats even with weights_only (CVE-2025-32434)
        if tarfile.is_tarfile(path):
            raise _Refused('the tar format of torch 0.1')
        if _is_zip(path) and 'constants.pkl' in torch._C.PyTorchFileReader(str(path)).get_all_records():
            raise CheckpointError(f'{path} is a TorchScript program, not a checkpoint')
        with _allowed_globals():
            return torch.load(path, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        name = re.search(r'GLOBAL (\S+)', str(error))
        if name:
            raise _Refused(f'the global {name[1]}') from None
        if _is_zip(path):
            raise _Refused(f'a structure that is more than data ({_reason(error)})') from None
        raise _unreadable(path, error) from error
    except (CheckpointError, _Refused):
        raise
    except Exception as error:  # a damaged file makes the reader fail in any way, from KeyError to struct.error
        raise _unreadable(path, error) from error


def _is_zip(path):
    # as torch decides it; zipfile.is_zipfile also accepts a zip at the end of something else
    with path.open('rb') as file:
        return file.read(4) == b'PK\x03\x04'


def _unreadable(path, error):
    return CheckpointError(
        f'{path} is not a PyTorch checkpoint, or it is truncated or damaged ({_reason(error)}): '
        'copy or download it again'
    )


def _reason(error):
    # torch surrounds the reason with paragraphs of advice; the reason itself is the part after this mark
    text = str(error).split('WeightsUnpickler error:')[-1].strip()
    return f'{type(error).__name__}: {text.splitlines()[0]}'[:160] if text else type(error).__name__


# What files hold besides tensors and plain values. Each name maps to an object that only makes data. torch finds an
# allowed object by its own module and name, hence the classes and functions here that carry a foreign name.


def _named(full_name):
    def rename(thing):
        thing.__module__, _, thing.__name__ = full_name.rpartition('.')
        thing.__qualname__ = thing.__name__
        return thing

    return rename


@_named('yacs.config.CfgNode')
class _CfgNode:
    """The config of official classification files; made an OrderedDict, which torch can fill in this mode."""

    def __new__(cls):
        return OrderedDict()


@_named('numpy.dtype')
def _dtype(name, align=False, copy=False):
    # an array of objects is an array of addresses, and the file would choose them
    if not re.fullmatch(r'[<>=|]?[biufcSU]\d+', name):
        raise pickle.UnpicklingError(f'GLOBAL numpy.dtype({name})')
    return np.dtype(name, align, copy)


@_named('builtins.getattr')
def _history_method(owner, name):
    """mmengine pickles the methods of HistoryBuffer as ``getattr(HistoryBuffer, name)``."""
    if owner is not HistoryBuffer or name not in ('mean', 'min', 'max', 'current'):
        raise pickle.UnpicklingError('GLOBAL getattr')
    return getattr(HistoryBuffer, name)


def _numpy_functions():
    """The two that rebuild arrays and scalars, under the names that numpy 1 and numpy 2 write."""
    for function in (np.empty(0).__reduce__()[0], np.float64(0).__reduce__()[0]):
        for module in ('numpy.core.multiarray', 'numpy._core.multiarray'):

            def call(*args, function=function):
                return function(*args)

            yield _named(f'{module}.{function.__name__}')(call)


_ALLOWED = [
    argparse.Namespace,
    HistoryBuffer,
    _CfgNode,
    _dtype,
    _history_method,
    np.ndarray,
    *(set, bytearray, complex, _codecs.encode),  # torch allows these by itself from 2.5 on
    *{type(np.dtype(name)) for name in ('?', *'bhilqBHILQefdgFDGSU')},
    *_numpy_functions(),
]


@contextmanager
def _allowed_globals():
    # torch.serialization.safe_globals does this from 2.5 on
    before = list(torch.serialization.get_safe_globals())
    torch.serialization.add_safe_globals(_ALLOWED)
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


# Comparing the file with a model


def _load_into(module, state_dict, metadata, prefix, missing, unexpected, errors):
    """``nn.Module.load_state_dict`` with its findings as lists; the public one stops at the first kind of them."""
    module._load_from_state_dict(state_dict, prefix, metadata.get(prefix[:-1], {}), True, missing, unexpected, errors)
    for name, child in module.named_children():
        inner = OrderedDict((key, value) for key, value in state_dict.items() if key.startswith(f'{prefix}{name}.'))
        _load_into(child, inner, metadata, f'{prefix}{name}.', missing, unexpected, errors)


def _shape_difference(error):
    match = re.match(r'size mismatch for (\S+): .*torch\.Size\(\[(.*?)\]\).*torch\.Size\(\[(.*?)\]\)', error)
    return f'{match[1]} (file {match[2] or "scalar"}, model {match[3] or "scalar"})' if match else error


def _below(entries, prefix):
    return OrderedDict((name[len(prefix) :], value) for name, value in entries.items() if name.startswith(prefix))


def _listing(names, most=10):
    names = list(map(str, names))
    more = f' and {len(names) - most} more' if most and len(names) > most else ''
    return ', '.join(names[:most]) + more
