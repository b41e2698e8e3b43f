"""Runs the cases of test_native.py and test_depthwise_conv.py with the kernels under sanitizers and valgrind.

    python -m tests.test_ops.sanitize                    # address, thread and valgrind: some minutes
    python -m tests.test_ops.sanitize address --threads 2

Each checker runs the kernels of every instruction set of this machine in a separate process, on heap blocks of exactly
the size of each array. The results are compared as in the tests. Each checker must first find deliberate faults
(faults.c).

`address` is GCC's AddressSanitizer with leak detection, and UndefinedBehaviorSanitizer. The kernels leave gaps between
the arrays of their scratch buffer, which nothing may access. `thread` is ThreadSanitizer with clang and LLVM's OpenMP,
whose tool archer reports barriers to it; with GCC's OpenMP it would report every barrier as a race. ThreadSanitizer
does not see vectors of more than 16 bytes, so it checks the baseline, whose tasks and barriers equal those of the other
variants. `valgrind` does not support AVX-512; it finds uninitialised values, also in outputs. Debian packages: gcc
clang libomp-dev valgrind.
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
from mmvmamba.ops.conv.backends import CONV
from mmvmamba.ops.native import call

from . import test_depthwise_conv, test_native
from .elsewhere import Elsewhere, build

SETS = {
    'baseline': (),
    'avx2': ('-mavx2', '-mfma'),
    'avx512': ('-mavx512f', '-mavx512dq', '-mavx512bw', '-mavx512vl', '-mavx2', '-mfma'),
}


@dataclass(frozen=True)
class Checker:
    """A checker: how to build and run programs for it, and which faults of faults.c it finds."""

    compiler: str
    finds: tuple[str, ...]
    flags: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    sets: tuple[str, ...] = tuple(SETS)
    positions: int = 10**9  # positions times channels of the largest case

    def build(self, folder: Path) -> Path:
        """Builds run_kernels and the faults program."""
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
        environment=dict(TSAN_OPTIONS='ignore_noninstrumented_modules=1'),  # LLVM's OpenMP is not instrumented
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
    """Yields names and functions; each function compares kernel results with a reference and raises if they differ."""
    for name, case in test_native.CASES.items():
        if case['b'] * case['H'] * case['W'] * case['d'] <= positions:
            yield f'scan, {name}', lambda name=name: test_native.test_kernels_match_the_reference(name, isa)
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
    conv = CONV.backends['native']
    for name, (batch, height, width, channels, *_) in test_depthwise_conv.CASES.items():
        if batch * height * width * channels <= positions:
            yield f'convolution, {name}', lambda name=name: test_depthwise_conv.test_kernels_match_float64(name, conv)
    for dtype in (torch.bfloat16, torch.float16):
        yield (
            f'convolution, {dtype}',
            lambda dtype=dtype: test_depthwise_conv.test_16_bit_results_are_rounded_once(dtype, conv),
        )


def check(name: str, checker: Checker, threads: int, only: Collection[str] = ()) -> int:
    """Runs all or some of the cases under a checker; returns the number of failures."""
    failed = 0
    with (
        tempfile.TemporaryDirectory() as folder,
        patch.dict(os.environ),
        patch.object(torch, 'get_num_threads', lambda: threads),  # the thread count that the kernels are asked to use
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
            with patch.object(call, 'load', lambda: (elsewhere, None)):  # noqa: B023
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
