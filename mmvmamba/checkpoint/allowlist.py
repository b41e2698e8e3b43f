"""The globals that a checkpoint may name, and the functions of this package that replace them."""

import argparse
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from . import arrays, tensors
from .budget import Budget
from .errors import LONGEST_NAME, UnsafeCheckpoint, one_line


@dataclass(frozen=True, slots=True)
class Global:
    """A class or function that a file names. It cannot be called."""

    name: str


def find_global(name: str) -> Global | torch.dtype:
    """
    Args:
        name: module and name from the file, joined by a dot.

    Raises:
        UnsafeCheckpoint: the global is not in the tables below.
    """
    if name.startswith('__builtin__.'):  # Python 2's name, which protocol 2 uses
        name = name.replace('__builtin__', 'builtins', 1)
    if name in DTYPES:
        return DTYPES[name]
    if name in UNSUPPORTED:
        raise UnsafeCheckpoint(UNSUPPORTED[name])
    if name in CALLS or name in NEW or name in STORAGES or name in NAMED_ONLY:
        return Global(name)
    raise UnsafeCheckpoint(f'the global {one_line(name, LONGEST_NAME)}')


# Functions for `CALLS` and `NEW`. They take a budget, then the arguments from the file; an unexpected argument raises
# TypeError or ValueError.


def _ordered_dict(budget: Budget, items: list | tuple = ()) -> OrderedDict:
    """Python 2 passes the items as a list of pairs; later versions set them one by one."""
    if type(items) not in (list, tuple):
        raise TypeError
    budget.spend(len(items))
    result = OrderedDict()
    for key, value in items:
        budget.check_key(key)
        result[key] = value
    return result


def _counter(budget: Budget, counts: dict | tuple = ()) -> Counter:
    if type(counts) not in (dict, tuple):
        raise TypeError
    budget.spend(len(counts))
    return Counter(counts)


def _set(budget: Budget, items: list) -> set:
    if type(items) is not list:
        raise TypeError
    budget.spend(len(items))
    for item in items:
        budget.check_key(item)
    return set(items)


def _encoded(budget: Budget, text: str, encoding: str) -> bytes:
    """Protocol 2 writes bytes as text."""
    if type(text) is not str or type(encoding) is not str or encoding not in ('latin1', 'latin-1'):
        raise TypeError
    budget.spend_bytes(len(text))
    return text.encode('latin1')


def _bytes(budget: Budget) -> bytes:
    """Protocol 2 writes empty bytes in this way, and all others as text."""
    return b''


def _bytearray(budget: Budget, content: Any = b'', encoding: str = 'latin-1') -> bytearray:
    """Does not support `bytearray(length)`, which would allocate memory that the file does not fill."""
    if type(content) is bytes:
        budget.spend_bytes(len(content))
        return bytearray(content)
    return bytearray(_encoded(budget, content, encoding))


def _complex(budget: Budget, real: float, imaginary: float) -> complex:
    if type(real) is not float or type(imaginary) is not float:
        raise TypeError
    return complex(real, imaginary)


def _history_method(budget: Budget, owner: Global, name: str) -> str:
    """MMEngine pickles methods of HistoryBuffer as `getattr(HistoryBuffer, name)`, although the class defines them."""
    if owner != Global(_HISTORY) or type(name) is not str or name not in ('mean', 'min', 'max', 'current'):
        raise TypeError
    return name


def _size(budget: Budget, lengths: tuple) -> torch.Size:
    if type(lengths) is not tuple or not all(type(length) is int for length in lengths):
        raise TypeError
    budget.spend(len(lengths))
    return torch.Size(lengths)


def _device(budget: Budget, kind: str, index: int = 0) -> torch.device:
    if type(kind) is not str or type(index) is not int:
        raise TypeError
    return torch.device(kind, index) if index else torch.device(kind)


def _dtype(budget: Budget, name: str, align: Any = False, copy: Any = False) -> arrays.UnfinishedDtype:
    return arrays.UnfinishedDtype(name)


def _reconstruct(budget: Budget, kind: Global, shape: tuple, typecode: bytes) -> arrays.UnfinishedArray:
    if kind != Global('numpy.ndarray'):
        raise TypeError
    return arrays.UnfinishedArray()


def _from_type(budget: Budget, function: Global, kind: Global, arguments: tuple, state: Any) -> torch.Tensor:
    """A tensor with attributes, which FSDP and other trainers set; they are not restored."""
    if function.name not in _TENSORS or kind.name not in ('torch.Tensor', 'torch.nn.parameter.Parameter'):
        raise TypeError
    return _TENSORS[function.name](budget, *arguments)


_HISTORY = 'mmengine.logging.history_buffer.HistoryBuffer'
_TENSORS: dict[str, Callable[..., torch.Tensor]] = {
    'torch._utils._rebuild_tensor': tensors.tensor_v1,
    'torch._utils._rebuild_tensor_v2': tensors.tensor_v2,
    'torch._utils._rebuild_tensor_v3': tensors.tensor_v3,
    'torch._utils._rebuild_meta_tensor_no_storage': tensors.meta_tensor,
    'torch._utils._rebuild_parameter': tensors.parameter,
    'torch._utils._rebuild_parameter_with_state': tensors.parameter,
}

# Functions that the instruction REDUCE may call.
CALLS: dict[str, Callable] = {
    **_TENSORS,
    'torch._tensor._rebuild_from_type_v2': _from_type,
    'torch.Size': _size,
    'torch.device': _device,
    'collections.OrderedDict': _ordered_dict,
    'collections.Counter': _counter,
    'builtins.set': _set,
    'builtins.bytes': _bytes,
    'builtins.bytearray': _bytearray,
    'builtins.complex': _complex,
    'builtins.getattr': _history_method,
    '_codecs.encode': _encoded,
    'numpy.dtype': _dtype,
    'numpy.core.multiarray._reconstruct': _reconstruct,
    'numpy.core.multiarray.scalar': arrays.scalar,
    'numpy._core.multiarray._reconstruct': _reconstruct,
    'numpy._core.multiarray.scalar': arrays.scalar,
}

# Classes that the instruction NEWOBJ may instantiate. `yacs` need not be installed.
NEW: dict[str, Callable] = {
    'argparse.Namespace': lambda budget: argparse.Namespace(),
    'yacs.config.CfgNode': lambda budget: OrderedDict(),
    _HISTORY: lambda budget: arrays.UnfinishedHistory(),
}

# Storage classes; their elements are bytes if the type is None.
STORAGES: dict[str, torch.dtype | None] = {
    f'{module}.{kind}Storage': dtype
    for module in ('torch', 'torch.cuda')
    for kind, dtype in {
        'Double': torch.float64,
        'Float': torch.float32,
        'Half': torch.float16,
        'BFloat16': torch.bfloat16,
        'ComplexDouble': torch.complex128,
        'ComplexFloat': torch.complex64,
        'Long': torch.int64,
        'Int': torch.int32,
        'Short': torch.int16,
        'Char': torch.int8,
        'Byte': torch.uint8,
        'Bool': torch.bool,
    }.items()
} | {'torch.storage.UntypedStorage': None}

DTYPES: dict[str, torch.dtype] = {
    str(dtype): dtype
    for dtype in vars(torch).values()
    if isinstance(dtype, torch.dtype) and not str(dtype).startswith('torch.q')
}

# Named only as arguments of the functions above.
NAMED_ONLY = {'torch.Tensor', 'torch.nn.parameter.Parameter', 'numpy.ndarray'}

UNSUPPORTED = {
    'torch._utils._rebuild_qtensor': 'a quantized tensor',
    'torch._utils._rebuild_sparse_tensor': 'a sparse tensor',
    'torch.serialization._get_layout': 'a sparse tensor',
    'torch._utils._rebuild_nested_tensor': 'a nested tensor',
    'torch._utils._rebuild_wrapper_subclass': 'a tensor of a subclass',
    **{f'torch.{kind}Storage': 'a quantized tensor' for kind in ('QInt8', 'QUInt8', 'QInt32', 'QUInt4x2', 'QUInt2x4')},
    **{f'torch.{kind}': 'a quantized type' for kind in ('qint8', 'quint8', 'qint32', 'quint4x2', 'quint2x4')},
}
