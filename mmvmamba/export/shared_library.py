"""Compiles the C++ operators on the user's machine, against the headers of an installed library."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

FLAGS = ('-std=c++17', '-O2', '-fPIC', '-shared', '-fvisibility=hidden')


def find_compiler(purpose: str) -> str:
    """Returns the C++ compiler of the environment variable CXX, by default g++.

    Raises:
        FileNotFoundError: there is none. The message names the `purpose`, such as 'The operators for OpenVINO'.
    """
    name = os.environ.get('CXX') or 'g++'
    compiler = shutil.which(name)
    if compiler is None:
        raise FileNotFoundError(f'{purpose} need the C++ compiler {name}: install g++, or set CXX to another compiler.')
    return compiler


def compile_library(compiler: str, arguments: Sequence[str | Path], library: Path) -> None:
    """Writes a library, under a temporary name until it is complete, because other processes may load it.

    Raises:
        RuntimeError: the compiler fails. The message quotes its first error.
    """
    library.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        part = Path(folder, 'library')
        done = subprocess.run([compiler, *FLAGS, *arguments, '-o', part], capture_output=True, text=True)
        if done.returncode:
            lines = done.stderr.splitlines()
            first = next((line for line in lines if 'error' in line), lines[0] if lines else 'no message')
            raise RuntimeError(f'{compiler} could not compile {library.name} ({first.strip()}).')
        os.replace(part, library)
