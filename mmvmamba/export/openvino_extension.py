"""Builds the library with mmvmamba's operators for OpenVINO.

A library of C++ operators works only with the OpenVINO that it was compiled for. It is therefore compiled on the
machine, against the headers in the wheel of the installed OpenVINO.
"""

import hashlib
import os
import subprocess
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from .custom_op_library import custom_op_library
from .shared_library import FLAGS, compile_library, find_compiler

OPERATORS, KERNELS = Path(__file__).with_name('native'), Path(__file__).parents[1] / 'ops/native'


def openvino_extension(cache: str | os.PathLike | None = None) -> str:
    """Returns the path of the library, for `openvino.Core.add_extension`. The first call compiles it, in 10 seconds.

    The library loads the kernels from the library of `custom_op_library`, from its own folder or that of mmvmamba. To
    use it from C++ without Python, copy both to one folder.

    Args:
        cache: the folder of the compiled libraries, one for each version of OpenVINO, mmvmamba and the compiler;
            default: `mmvmamba` in XDG_CACHE_HOME or ~/.cache.

    Raises:
        ImportError: OpenVINO is not installed.
        FileNotFoundError: the compiler, the headers of OpenVINO or the kernels are missing.
        RuntimeError: compiling failed.
    """
    spec = find_spec('openvino')
    if spec is None or spec.origin is None:
        raise ImportError('The operators for OpenVINO need openvino: run `pip install openvino`.', name='openvino')
    openvino = Path(spec.origin).parent
    libraries = [next(openvino.glob(f'libs/{name}'), None) for name in ('libopenvino.so.*', 'libtbb.so.*')]
    if None in libraries or not openvino.joinpath('include/openvino/op/op.hpp').exists():
        raise FileNotFoundError(
            f'{openvino} contains no C++ headers or no libopenvino.so and libtbb.so: install the wheel of PyPI for '
            'Linux with `pip install openvino`.'
        )
    compiler = find_compiler('The operators for OpenVINO')
    kernels = Path(custom_op_library())
    arguments = [
        *('-isystem', openvino / 'include', '-I', KERNELS, OPERATORS / 'ov_extension.cpp'),
        *('-L', openvino / 'libs', *(f'-l:{library.name}' for library in libraries if library)),
        *('-L', kernels.parent, f'-l:{kernels.name}', f'-Wl,-rpath,$ORIGIN:{kernels.parent}'),
    ]
    folder = Path(cache or Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache') / 'mmvmamba')
    library = folder / f'openvino-{version("openvino")}-{_digest(compiler, arguments)}' / 'openvino_ops.so'
    if not library.exists():
        compile_library(compiler, arguments, library)
    return str(library)


def _digest(compiler: str, arguments: list) -> str:
    """A hash of all that the result depends on, apart from the version of OpenVINO."""
    version = subprocess.run([compiler, '--version'], capture_output=True).stdout
    sources = sorted([*OPERATORS.glob('ov_*'), *KERNELS.glob('*.h')])
    parts = [' '.join(map(str, (*FLAGS, *arguments))).encode(), version, *(source.read_bytes() for source in sources)]
    return hashlib.sha256(b'\0'.join(parts)).hexdigest()[:16]
