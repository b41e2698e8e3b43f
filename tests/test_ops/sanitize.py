"""The cases of test_native.py and test_depthwise_conv.py with the kernels under sanitizers and valgrind.

    python -m tests.test_ops.sanitize                    # address, thread and valgrind: some minutes
    python -m tests.test_ops.sanitize address --threads 2

Each runs the kernels of every instruction set of this machine in a process of their own, on arrays in blocks of exactly
their size, and the results are compared as in the tests. First it has to find faults made on purpose (faults.c).

`address` is GCC's AddressSanitizer, with the leak check, and UndefinedBehaviorSanitizer; the kernels then leave gaps
between the arrays of their scratch that nothing may touch. `thread` is ThreadSanitizer: clang and LLVM's OpenMP, whose
tool archer tells it what a barrier orders; of GCC's OpenMP it would take every barrier for a race. It sees no vectors
of more than 16 bytes, so it watches the baseline, whose tasks and barriers are those of the others. `valgrind` has no
AVX-512; it finds uninitialised values, the outputs' included. On Debian: gcc clang libomp-dev valgrind.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from unittest.mock import patch

import torch

from mmvmamba.ops import native

from . import test_depthwise_conv, test_native
from .elsewhere import Elsewhere, build

SETS = {
    'baseline': (),
    'avx2': ('-mavx2', '-mfma'),
    'avx512': ('-mavx512f', '-mavx512dq', '-mavx512bw', '-mavx512vl', '-mavx2', '-mfma'),
}


@dataclass(frozen=True)
class Checker:
    """One tool: how programs are built for it and run, and the faults of faults.c that it finds."""

    compiler: str
    finds: tuple[str, ...]
    flags: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    sets: tuple[str, ...] = tuple(SETS)
    positions: int = 10**9  # times channels, of the largest case

    def build(self, folder: Path) -> Path:
        """run_kernels, and faults beside it."""
        flags = ('-O1', '-g', '-fopenmp', *self.flags)
        faults = Path(__file__).with_name('faults.c')
        subprocess.run([self.compiler, *flags, faults, '-o', folder / 'faults'], check=True)
        return build(
            folder / 'run_kernels',
            self.compiler,
            *flags,
            own={
                f'variant_{name}.c': own if name in self.sets else (*own, '-O0', '-fno-sanitize=all')
                for name, own in SETS.items()
            },
        )

    def finds_faults(self, folder: Path) -> None:
        for fault in ('none', *self.finds):
            command = [*self.command, folder / 'faults', fault]
            done = subprocess.run(command, env={**os.environ, **self.environment}, capture_output=True, text=True)
            assert bool(done.returncode) == (fault != 'none'), f'{fault}: {done.returncode}\n{done.stderr}'


CHECKERS = {
    'address': Checker(
        'gcc',
        finds=('overflow', 'overread', 'leak', 'arithmetic'),
        flags=('-fsanitize=address,undefined', '-fno-sanitize-recover=all'),
    ),
    'thread': Checker(
        'clang',
        finds=('race',),
        flags=('-fsanitize=thread',),
        environment=dict(TSAN_OPTIONS='ignore_noninstrumented_modules=1'),  # LLVM's OpenMP is not compiled for it
        sets=('baseline',),
    ),
    'valgrind': Checker(
        'gcc',
        finds=('overflow', 'overread', 'leak', 'uninitialised'),
        command=(
            'valgrind',
            '--quiet',
            '--error-exitcode=9',
            '--leak-check=full',
            '--show-leak-kinds=definite',  # OpenMP's threads end with the process
            '--errors-for-leak-kinds=definite',
        ),
        sets=('baseline', 'avx2'),
        positions=3000,
    ),
}


def cases(isa: str, positions: int) -> Iterator[tuple[str, Callable]]:
    """Names and calls: each compares what the kernels give with a reference, and raises where they differ."""
    for name, case in test_native.CASES.items():
        if case['b'] * case['H'] * case['W'] * case['d'] <= positions:
            yield f'scan, {name}', lambda name=name: test_native.test_against_reference(name, isa)
    for dtype, rank in product((torch.bfloat16, torch.float16), (None, 5)):
        name = f'scan, {dtype}, rank {rank}'
        yield name, lambda dtype=dtype, rank=rank: test_native.test_16_bit_maps(dtype, rank, isa)
    for value in (float('nan'), float('inf')):
        for name in ('x', 'dt'):
            yield (
                f'scan, {value} in {name}',
                lambda value=value, name=name: test_native.test_nan_and_infinity_spread_as_in_the_reference(
                    name, value, True, isa
                ),
            )
    for name, (batch, height, width, channels, *_) in test_depthwise_conv.CASES.items():
        if batch * height * width * channels <= positions:
            yield f'convolution, {name}', lambda name=name: test_depthwise_conv.test_kernels(name, native)
    for dtype in (torch.bfloat16, torch.float16):
        yield f'convolution, {dtype}', lambda dtype=dtype: test_depthwise_conv.test_16_bit(dtype, native)


def check(name: str, checker: Checker, threads: int, only: Collection[str] = ()) -> int:
    """Runs the cases under a checker, or some of them; returns the number of those that failed."""
    failed = 0
    with (
        tempfile.TemporaryDirectory() as folder,
        patch.dict(os.environ),
        patch.object(torch, 'get_num_threads', lambda: threads),  # what the kernels are asked to use
    ):
        started = time.monotonic()
        program = checker.build(Path(folder))
        checker.finds_faults(Path(folder))
        print(f'{name}: built in {time.monotonic() - started:.0f} s; found {", ".join(checker.finds)}', flush=True)
        for isa in checker.sets:
            os.environ['MMVMAMBA_ISA'] = isa
            if not native.info().startswith(isa):
                print(f'{name}, {isa}: not on this processor')
                continue
            started, count, of_set = time.monotonic(), 0, 0
            elsewhere = Elsewhere(*checker.command, program, environment=checker.environment)
            with (
                patch.object(native.scan, 'load', lambda: (elsewhere, None)),  # noqa: B023
                patch.object(native.conv, 'load', lambda: (elsewhere, None)),  # noqa: B023
            ):
                for case, run in cases(isa, checker.positions):
                    if only and case not in only:
                        continue
                    count += 1
                    try:
                        run()
                    except (AssertionError, subprocess.CalledProcessError) as error:
                        of_set += 1
                        print(f'{name}, {isa}, {case}: {error}', flush=True)
            assert not only or count == len(only), f'no such case among {only}'
            failed += of_set
            print(f'{name}, {isa}: {count} cases, {of_set} failed, {time.monotonic() - started:.0f} s', flush=True)
    return failed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('checkers', nargs='*', default=list(CHECKERS), metavar='|'.join(CHECKERS))
    parser.add_argument('--threads', type=int, default=4)
    args = parser.parse_args()
    if unknown := set(args.checkers) - set(CHECKERS):
        parser.error(f'{", ".join(unknown)}: choose from {", ".join(CHECKERS)}')
    sys.exit(bool(sum([check(name, CHECKERS[name], args.threads) for name in args.checkers])))


if __name__ == '__main__':
    main()
