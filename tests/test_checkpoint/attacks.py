"""Builds malicious checkpoint files, and the payloads that `torch.save` writes into them."""

import argparse
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
from mmengine.logging import HistoryBuffer

RECONSTRUCT, SCALAR = np.empty(0).__reduce__()[0], np.float64(0).__reduce__()[0]
NO_ARRAY = (np.ndarray, (0,), b'b')
DOUBLE = np.dtype('f8')


class Calls:
    """Unpickling this object calls a function, then sets the state of its result."""

    def __init__(self, function, *arguments, state=None):
        self.reduced = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.reduced


def array(shape, dtype, content, fortran=False):
    return Calls(RECONSTRUCT, *NO_ARRAY, state=(1, shape, dtype, fortran, content))


def series(**state):
    """Returns a HistoryBuffer with an invalid state."""
    buffer = HistoryBuffer([1.0, 1.0], [1, 1])
    buffer.__dict__.update(state)
    return buffer


# Name of each attack, and the content stored beside the weights.
MEMORY = {
    'array over a buffer': Calls(np.ndarray, (1,), DOUBLE, b'A' * 8),
    'array of addresses': Calls(np.ndarray, (1,), np.dtype('O'), b'A' * 8),
    'array before its buffer': Calls(np.ndarray, (8,), DOUBLE, b'A' * 8, -64),
    'array across its buffer': Calls(np.ndarray, (8,), DOUBLE, b'A' * 8, 0, (-8,)),
    'array longer than its bytes': array((1000,), DOUBLE, b'A' * 8),
    'array shorter than its bytes': array((1,), DOUBLE, b'A' * 80),
    'array of negative length': array((-1,), DOUBLE, b'A' * 8),
    'array of no integer length': array((1.0,), DOUBLE, b'A' * 8),
    'array of objects in a list': array((1,), np.dtype('O'), [print]),
    'array of a list': array((1,), DOUBLE, [1.0]),
    'array of a foreign class': Calls(RECONSTRUCT, np.matrix, (0,), b'b', state=(1, (1, 1), DOUBLE, False, b'A' * 8)),
    'array that is called with a shape': Calls(RECONSTRUCT, np.ndarray, (1 << 40,), b'b'),
    'array of other truth values': array((2,), np.dtype('?'), b'\x02\xff'),
    'array of other characters': array((1,), np.dtype('<U1'), b'\xff\xff\xff\x7f'),
    'scalar of an address': Calls(SCALAR, np.dtype('O'), b'A' * 8),
    'scalar of too few bytes': Calls(SCALAR, DOUBLE, b'A'),
    'structured type': np.dtype([('a', 'O'), ('b', 'f8')]),
    'type that turns into a structure': Calls(
        np.dtype, 'f8', False, True, state=(3, '<', None, ('a',), {'a': (DOUBLE, 0)}, 8, 8, 27)
    ),
    'type of another size': Calls(np.dtype, 'f8', False, True, state=(3, '<', None, None, None, 800, 8, 0)),
    'series of addresses': series(_log_history=array((1,), np.dtype('O'), b'A' * 8)),
    'series over a buffer': series(_log_history=Calls(np.ndarray, (2,), DOUBLE, b'A' * 16)),
    'series of words': series(_log_history=np.array(['a', 'b'])),
    'series that is none': series(_log_history=7),
    'series of no length': series(max_length='ten'),
}
CODE = {
    'print': Calls(print, 'the file ran code'),
    'exec': Calls(exec, 'raise SystemExit("the file ran code")'),
    'getattr': Calls(getattr, HistoryBuffer, '__init__'),
    'attribute of another thing': Calls(getattr, 'text', 'mean'),
    'namespace that is called': Calls(argparse.Namespace, 1),
    'function as data': np.save,
    'class as data': HistoryBuffer,
}


def write(path: Path, weights: dict, **more) -> Path:
    torch.save({'state_dict': OrderedDict(weights), **more}, path)
    return path


def rewrite(path: Path, change, compression: int = zipfile.ZIP_STORED) -> Path:
    """Rewrites a zip file. `change` maps each record (name, content) to a new one; None drops the record."""
    with zipfile.ZipFile(path) as archive:
        records = [(name, archive.read(name)) for name in archive.namelist()]
    with zipfile.ZipFile(path, 'w', compression) as archive:
        for record in filter(None, (change(name, content) for name, content in records)):
            archive.writestr(*record)
    return path
