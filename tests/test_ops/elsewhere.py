"""Runs the native kernels in a separate process: in an emulator or under a sanitizer."""

import ctypes
import os
import struct
import subprocess
from pathlib import Path

from mmvmamba.ops import native
from mmvmamba.ops.native.library import CONV_MAPS, MAPS, SCAN_FLOAT32, ConvArgs, ScanArgs

SOURCES = Path(native.__file__).parent
UNIT = 16
FLAGS = ('-std=c11', '-Wall', '-Werror', '-ffp-contract=off', '-fno-math-errno', '-fno-trapping-math')


def build(program: Path, compiler: str, *flags: str, own: dict[str, list[str]] | None = None) -> Path:
    """Compiles the kernels and run_kernels.c. `own` holds additional flags for single files, by name."""
    objects = []
    for source in (Path(__file__).with_name('run_kernels.c'), *sorted(SOURCES.glob('*.c'))):
        objects.append(program.with_name(f'{source.stem}.o'))
        more = (own or {}).get(source.name, ())
        command = [compiler, *FLAGS, *flags, *more, '-I', SOURCES, '-c', source, '-o', objects[-1]]
        subprocess.run(command, check=True)
    subprocess.run([compiler, *flags, *objects, '-o', program], check=True)
    return program


def scan_sizes(args: ScanArgs) -> dict[str, int]:
    """Returns the size in bytes of each array of `args` by field name. For maps, it starts at the first element."""
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
    return found | {name: _map_size(getattr(args, name), b, K, H, W, c) for name, c in zip(MAPS, (d, r or d, n, n, d))}


def conv_sizes(args: ConvArgs) -> dict[str, int]:
    """Same as `scan_sizes`, for convolutions."""
    b, H, W, d, K, rows, columns, *_ = (getattr(args, name) for name, _ in ConvArgs._fields_[:7])
    taps, of_a_channel = 4 * K * d * rows * columns, 4 * K * d
    found = dict(weight=taps, grad_weight=taps, bias=of_a_channel, grad_bias=of_a_channel, left=8 * K)
    return found | {name: _map_size(getattr(args, name), b, K, H, W, d) for name in CONV_MAPS}


def _map_size(of, b: int, K: int, H: int, W: int, channels: int) -> int:
    last = (b - 1) * of.batch + (K - 1) * of.traversal + (H - 1) * of.row + (W - 1) * of.col + channels - 1
    return (last + 1) * (4 if of.dtype == SCAN_FLOAT32 else 2)


def is_output(name: str) -> bool:
    return name == 'y' or (name.startswith('grad_') and name != 'grad_y')


class Elsewhere:
    """Provides the functions of the native library by running `command`, whose last word is a program made by `build`.

    Raises:
        CalledProcessError: a call failed.
    """

    channel_unit = UNIT

    def __init__(self, *command: str | Path, environment: dict[str, str] | None = None):
        self.command, self.file = command, Path(command[-1]).with_name('memory')
        self.environment = environment or {}

    def scan_forward(self, args: ScanArgs) -> int:
        return self._run('scan_forward', args, scan_sizes(args), MAPS)

    def scan_backward(self, args: ScanArgs) -> int:
        return self._run('scan_backward', args, scan_sizes(args), MAPS)

    def conv_forward(self, args: ConvArgs) -> int:
        return self._run('conv_forward', args, conv_sizes(args), CONV_MAPS)

    def conv_backward(self, args: ConvArgs) -> int:
        return self._run('conv_backward', args, conv_sizes(args), CONV_MAPS)

    def _run(self, function: str, args: ScanArgs | ConvArgs, sizes: dict[str, int], maps: tuple[str, ...]) -> int:
        addresses = {name: getattr(args, name).data if name in maps else getattr(args, name) for name in sizes}
        arrays = [(name, address, sizes[name]) for name, address in addresses.items() if address]
        at = 8 * (2 + 4 * len(arrays))  # of the arguments, after the header
        end = at + ctypes.sizeof(args)
        header, places, content = [at, len(arrays)], [], b''
        for name, address, size in arrays:
            # the first field of a map is its pointer
            header += [at + getattr(type(args), name).offset, end + len(content), size, is_output(name)]
            places.append(end + len(content))
            content += ctypes.string_at(address, size)
        self.file.write_bytes(struct.pack(f'{len(header)}q', *header) + bytes(args) + content)
        subprocess.run([*self.command, function, self.file], check=True, env={**os.environ, **self.environment})
        memory = self.file.read_bytes()
        for (name, address, size), place in zip(arrays, places):
            if is_output(name):
                ctypes.memmove(address, memory[place : place + size], size)
        return 0
