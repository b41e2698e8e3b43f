"""Compiles the library with mmvmamba's operators for C++ programs that use PyTorch (2.10 or later, CPU, inference).

python -m mmvmamba.export.torch_ops_library FOLDER
"""

import argparse
import os
import shutil
import subprocess
from pathlib import Path

import torch
from torch.torch_version import __version__

from ..ops import native
from ..ops.native.library import OBJECT

SOURCE = Path(__file__).with_name('native') / 'torch_ops.cpp'


def build_torch_ops(folder: str | Path) -> str:
    """Writes `torch_ops.so`, and the kernels that it loads from the same folder. Returns the path of `torch_ops.so`.

    The library uses only PyTorch's stable ABI, so it also works with later versions of PyTorch. It depends on neither
    Python nor mmvmamba. Setting the environment variable CXX selects the compiler.

    Raises:
        RuntimeError: PyTorch is older than 2.10, the kernels are not built, or the compiler fails.
    """
    if __version__ < '2.10':
        raise RuntimeError(f'The operators for C++ need PyTorch 2.10 or later, this is {__version__}.')
    if reason := native.unavailable_reason():
        raise RuntimeError(reason)
    Path(folder).mkdir(parents=True, exist_ok=True)
    library = Path(folder) / 'torch_ops.so'
    shutil.copy(OBJECT, folder)
    pytorch = Path(torch.__file__).parent
    command = [
        *(os.environ.get('CXX', 'g++'), '-std=c++17', '-O2', '-fPIC', '-shared', '-fvisibility=hidden'),
        *(f'-I{OBJECT.parent}', f'-I{pytorch}/include', str(SOURCE), '-o', str(library)),
        *(f'-L{OBJECT.parent}', f'-l:{OBJECT.name}', '-Wl,-rpath,$ORIGIN', f'-L{pytorch}/lib', '-ltorch_cpu'),
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise RuntimeError(f'{command[0]} is missing: install g++, or set CXX to another C++ compiler.') from error
    if done.returncode:
        raise RuntimeError(f'{command[0]} cannot compile {SOURCE.name}:\n{done.stderr}')
    return str(library)


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=(__doc__ or '').partition('\n')[0])
    parser.add_argument('folder', help='where to write torch_ops.so and the kernels')
    try:
        print(build_torch_ops(parser.parse_args().folder))
    except RuntimeError as error:
        raise SystemExit(str(error)) from error
