"""The kernels built for 64-bit Arm and run in QEMU, against the sequential recurrence in float64.

Needs Debian's gcc-aarch64-linux-gnu and qemu-user; then the cases of test_native.py run there.
"""

import ctypes
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
import torch

from mmvmamba.ops import native
from mmvmamba.ops.native.library import MAPS, SCAN_FLOAT32, ScanArgs

from . import test_native

COMPILER, EMULATOR = 'aarch64-linux-gnu-gcc', 'qemu-aarch64'
FLAGS = ('-std=c11', '-O2', '-Wall', '-Werror', '-ffp-contract=off', '-fopenmp', '-static')
UNIT = 16

pytestmark = pytest.mark.skipif(
    not (shutil.which(COMPILER) and shutil.which(EMULATOR)), reason=f'needs {COMPILER} and {EMULATOR}'
)


def sizes(args):
    """The bytes behind every pointer of `args`, by the name of its field; a map's are those from its first element."""
    b, H, W, d, n, r, K, *_ = (getattr(args, name) for name, _ in ScanArgs._fields_[:7])
    padded, positions, maps = (d + UNIT - 1) // UNIT * UNIT, b * H * W, (1 if args.shared_x else K)
    floats = dict(
        A=K * d * n,
        D=K * d,
        bias=K * d,
        weight=K * d * r,
        y=positions * padded,
        grad_x=positions * maps * padded,
        grad_dt=positions * K * (r or padded),
        grad_B=positions * K * n,
        grad_C=positions * K * n,
        grad_A=K * n * padded,
        grad_D=K * padded,
        grad_bias=K * padded,
        grad_weight=K * r * padded,
    )
    found = {name: 4 * count for name, count in floats.items()} | dict(codes=8 * K)
    for name, channels in zip(MAPS, (d, r or d, n, n, d)):
        of = getattr(args, name)
        last = (b - 1) * of.batch + (K - 1) * of.traversal + (H - 1) * of.row + (W - 1) * of.col + channels - 1
        found[name] = (last + 1) * (4 if of.dtype == SCAN_FLOAT32 else 2)
    return found


class Emulated:
    """What the library offers, with the kernels in another process."""

    channel_unit = UNIT

    def __init__(self, program: Path):
        self.program, self.file = program, program.with_name('memory')

    def scan_forward(self, args: ScanArgs) -> int:
        return self.run('forward', args)

    def scan_backward(self, args: ScanArgs) -> int:
        return self.run('backward', args)

    def run(self, what: str, args: ScanArgs) -> int:
        places, arrays, copied = [], {}, ScanArgs.from_buffer_copy(args)
        header = 8 * (2 + len(sizes(args)))
        end = header + ctypes.sizeof(ScanArgs)
        for name, size in sizes(args).items():
            is_map = name in MAPS
            places.append(header + getattr(ScanArgs, name).offset)  # the pointer of a map is its first field
            address = getattr(args, name).data if is_map else getattr(args, name)
            if address:
                arrays[name] = (address, end, size)
                setattr(*((getattr(copied, name), 'data') if is_map else (copied, name)), end)
                end += (size + 63) // 64 * 64
        memory = bytearray(end)
        memory[: header + ctypes.sizeof(ScanArgs)] = struct.pack(
            f'{2 + len(places)}q', header, len(places), *places
        ) + bytes(copied)
        for address, at, size in arrays.values():
            memory[at : at + size] = ctypes.string_at(address, size)
        self.file.write_bytes(memory)
        result = subprocess.run([EMULATOR, self.program, what, self.file])
        memory = self.file.read_bytes()
        for name, (address, at, size) in arrays.items():
            if name == 'y' or name.startswith('grad_') and name not in MAPS:
                ctypes.memmove(address, memory[at : at + size], size)
        return result.returncode


@pytest.fixture(scope='module')
def program(tmp_path_factory):
    sources = Path(native.__file__).parent
    program = tmp_path_factory.mktemp('aarch64') / 'run_scan'
    files = [Path(__file__).with_name('run_scan.c'), *sorted(sources.glob('*.c'))]
    subprocess.run([COMPILER, *FLAGS, '-I', sources, *files, '-o', program], check=True)
    return program


@pytest.fixture
def emulated(program, monkeypatch):
    monkeypatch.setattr(native.scan, 'load', lambda: (Emulated(program), None))


@pytest.mark.parametrize('name', test_native.CASES)
def test_against_reference(name, emulated):
    test_native.test_against_reference(name, 'neon')


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_16_bit_maps(dtype, emulated):
    test_native.test_16_bit_maps(dtype, 5, 'neon')
