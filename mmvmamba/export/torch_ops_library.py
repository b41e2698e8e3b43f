"""Compiles the library with mmvmamba's operators for C++ programs that use PyTorch (2.10 or later, CPU, inference).

python -m mmvmamba.export.torch_ops_library FOLDER
"""

import argparse
import shutil
from pathlib import Path

import torch
from torch.torch_version import __version__

from ..ops import native
from ..ops.native.library import OBJECT
from .shared_library import compile_library, find_compiler

SOURCE = Path(__file__).with_name('native') / 'torch_ops.cpp'


def build_torch_ops(folder: str | Path) -> str:
    """Writes `torch_ops.so`, and the kernels that it loads from the same folder. Returns the path of `torch_ops.so`.

    The library uses only PyTorch's stable ABI, so it also works with later versions of PyTorch. It depends on neither
    Python nor mmvmamba. Setting the environment variable CXX selects the compiler.

    Raises:
        FileNotFoundError: there is no C++ compiler.
        RuntimeError: PyTorch is older than 2.10, the kernels are not built, or the compiler fails.
    """
    if __version__ < '2.10':
        raise RuntimeError(f'The operators for C++ need PyTorch 2.10 or later, this is {__version__}.')
    if reason := native.unavailable_reason():
        raise RuntimeError(reason)
    compiler = find_compiler('The operators for C++')
    library, pytorch = Path(folder) / 'torch_ops.so', Path(torch.__file__).parent
    arguments = [
        *(f'-I{OBJECT.parent}', f'-I{pytorch}/include', SOURCE),
        *(f'-L{OBJECT.parent}', f'-l:{OBJECT.name}', '-Wl,-rpath,$ORIGIN', f'-L{pytorch}/lib', '-ltorch_cpu'),
    ]
    compile_library(compiler, arguments, library)
    shutil.copy(OBJECT, folder)
    return str(library)


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=(__doc__ or '').partition('\n')[0])
    parser.add_argument('folder', help='where to write torch_ops.so and the kernels')
    try:
        print(build_torch_ops(parser.parse_args().folder))
    except (FileNotFoundError, RuntimeError) as error:
        raise SystemExit(str(error)) from error
