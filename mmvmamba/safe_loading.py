"""Unpickling without running what a file names: `torch.load` with ``weights_only=True`` and a short list of types."""

import _codecs
import argparse
import pickle
import re
import tarfile
from collections import OrderedDict
from contextlib import contextmanager
from importlib.util import find_spec

import numpy as np
import torch
from mmengine.logging import HistoryBuffer


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be read, is refused, or does not fit; the message is one sentence for the user."""


class Refused(Exception):
    """The file holds more than data; the message names what is not allowed."""


def load_safely(path, map_location):
    """``torch.load`` of data alone; a ``.safetensors`` file is nothing else.

    Raises:
        Refused: only unpickling could restore what the file holds.
        CheckpointError: the file is empty, damaged or of another kind.
    """
    if path.stat().st_size == 0:
        raise CheckpointError(f'checkpoint {path} is empty: copy or download it again')
    if path.suffix == '.safetensors' and find_spec('safetensors') is None:
        raise CheckpointError(f'{path} needs safetensors, which is not installed: pip install safetensors')
    try:
        if path.suffix == '.safetensors':
            from safetensors.torch import load_file

            return load_file(path, 'cpu' if callable(map_location) else str(map_location))
        # before 2.6 torch could run code from these two formats even with weights_only (CVE-2025-32434)
        if tarfile.is_tarfile(path):
            raise Refused('the tar format of torch 0.1')
        if _is_zip(path) and 'constants.pkl' in torch._C.PyTorchFileReader(str(path)).get_all_records():
            raise CheckpointError(f'{path} is a TorchScript program, not a checkpoint')
        with _allowed_globals():
            return torch.load(path, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        name = re.search(r'GLOBAL (\S+)', str(error))
        if name:
            raise Refused(f'the global {name[1]}') from None
        if _is_zip(path):
            raise Refused(f'a structure that is more than data ({_reason(error)})') from None
        raise _unreadable(path, error) from error
    except (CheckpointError, Refused):
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
