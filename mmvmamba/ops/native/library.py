"""Loads the compiled kernels and verifies that the structures defined here match those of scan.h and conv.h."""

import ctypes
from collections.abc import Iterator
from functools import cache
from itertools import count
from pathlib import Path

import torch

from ..scan.traversal import COLUMN, REVERSED

OBJECT = Path(__file__).with_name('_scan.so')

SCAN_FLOAT32, SCAN_BFLOAT16, SCAN_FLOAT16 = range(3)


class ScanMap(ctypes.Structure):
    """A strided map of `dtype`. Strides count elements; channels are contiguous."""

    _fields_ = [
        ('data', ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ('dtype', 'batch', 'traversal', 'row', 'col')),
    ]


SIZES = ('batch', 'height', 'width', 'channels', 'states', 'rank', 'traversals', 'shared_x', 'softplus', 'threads')
MAPS = ('x', 'dt', 'B', 'C', 'grad_y')
PARAMETERS = ('A', 'D', 'bias', 'weight')
GRADIENTS = ('grad_x', 'grad_dt', 'grad_B', 'grad_C', 'grad_A', 'grad_D', 'grad_bias', 'grad_weight')


class ScanArgs(ctypes.Structure):
    """The arguments of the scan kernels. scan.h documents the shapes."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in SIZES),
        *((name, ctypes.c_void_p) for name in ('pool', 'codes')),
        *((name, ScanMap) for name in MAPS),
        *((name, ctypes.c_void_p) for name in (*PARAMETERS, 'y', *GRADIENTS)),
    ]


CONV_SIZES = ('batch', 'height', 'width', 'channels', 'kernels', 'rows', 'columns', 'threads')
CONV_MAPS = ('x', 'y', 'grad_y', 'grad_x')
CONV_PARAMETERS = ('weight', 'bias', 'grad_weight', 'grad_bias')


class ConvArgs(ctypes.Structure):
    """The arguments of the convolution kernels. conv.h documents the shapes."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in CONV_SIZES),
        *((name, ctypes.c_void_p) for name in ('pool', 'left')),
        *((name, ScanMap) for name in CONV_MAPS),
        *((name, ctypes.c_void_p) for name in CONV_PARAMETERS),
    ]


class _Entry(ctypes.Structure):
    _fields_ = [('name', ctypes.c_char_p), ('value', ctypes.c_int64)]


def _own_interface() -> dict[str, int]:
    """Returns the constants, field offsets and sizes that the library must have been built with."""
    interface = dict(
        SCAN_FLOAT32=SCAN_FLOAT32,
        SCAN_BFLOAT16=SCAN_BFLOAT16,
        SCAN_FLOAT16=SCAN_FLOAT16,
        SCAN_COLUMN=COLUMN,
        SCAN_REVERSED=REVERSED,
    )
    for struct, name in ((ScanMap, 'scan_map'), (ScanArgs, 'scan_args'), (ConvArgs, 'conv_args')):
        interface |= {f'{name}.{field}': getattr(struct, field).offset for field, *_ in struct._fields_}
        interface[name] = ctypes.sizeof(struct)
    return interface


def _entries(library: ctypes.CDLL) -> Iterator[tuple[str, int]]:
    library.scan_interface.restype = ctypes.POINTER(_Entry)
    entries = library.scan_interface()
    for i in count():
        if entries[i].name is None:
            return
        yield entries[i].name.decode(), entries[i].value


def _show_openmp() -> None:
    """Makes an OpenMP runtime visible to the kernels.

    The kernels are not linked to a runtime, because some builds of torch ship it under a different file name
    (libgomp-a34b3233.so.1 in 2.4). Importing torch makes its runtime globally visible. If torch has none, this function
    loads the system's.
    """
    if not hasattr(ctypes.CDLL(None), 'GOMP_parallel'):
        ctypes.CDLL('libgomp.so.1', mode=ctypes.RTLD_GLOBAL)


class KernelLibrary(ctypes.CDLL):
    """The compiled kernels.

    Attributes:
        channel_unit: the kernels pad channels to a multiple of it.
    """

    channel_unit: int


@cache
def load() -> tuple[KernelLibrary | None, str | None]:
    """Returns the library and None, or None and one sentence with the reason why it cannot be used."""
    if not OBJECT.exists():
        return None, (
            f'The native scan is not built: {OBJECT.name} is missing in {OBJECT.parent}; '
            'install mmvmamba from source with a C compiler (gcc or clang) on the path.'
        )
    other = f'The native scan {OBJECT.name} was built from other sources; build it again.'
    try:
        _show_openmp()
        library = KernelLibrary(str(OBJECT))
        interface = dict(_entries(library))
        library.scan_isa.restype = ctypes.c_char_p
        for function in (library.scan_forward, library.scan_backward):
            function.argtypes = [ctypes.POINTER(ScanArgs)]
        for function in (library.conv_forward, library.conv_backward):
            function.argtypes = [ctypes.POINTER(ConvArgs)]
    except AttributeError:
        return None, other
    except OSError as error:
        return None, f'The native scan {OBJECT.name} does not load: {error}.'
    library.channel_unit = interface.pop('SCAN_CHANNEL_UNIT', 0)
    if interface != _own_interface() or not library.channel_unit:
        return None, other
    return library, None


def unavailable_reason() -> str | None:
    """Returns None if the kernels can run, else one sentence with the reason."""
    return load()[1]


def info() -> str:
    """Returns the selected instruction set and the number of threads, for diagnostics."""
    library, reason = load()
    return str(reason) if library is None else f'{library.scan_isa().decode()}, {torch.get_num_threads()} threads'
