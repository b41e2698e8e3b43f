"""Shared by all benchmarks: interleaved timing, peak memory, a description of the machine, and output of results."""

import argparse
import contextlib
import ctypes
import gc
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

import mmvmamba
from mmvmamba.ops import native, triton_kernels

DTYPES = {'float32': torch.float32, 'float16': torch.float16, 'bfloat16': torch.bfloat16}
# Shorter runs are repeated with different inputs; one sample is the mean of the repeats.
SAMPLE_SECONDS = {'cpu': 0.02, 'cuda': 0.002}


def parser(docstring: str | None) -> argparse.ArgumentParser:
    """Returns a parser with the options of all benchmarks, described by the first line of a docstring."""
    options = argparse.ArgumentParser(description=(docstring or '').partition('\n')[0])
    options.add_argument('--device', choices=('cpu', 'cuda'), default='cpu')
    options.add_argument('--dtype', choices=DTYPES, default='float32')
    options.add_argument('--batch', type=int, default=1)
    options.add_argument('--rounds', type=int, default=9, help='minimum number of measured rounds (default: 9)')
    options.add_argument('--threads', type=int, help="CPU threads (default: PyTorch's choice)")
    options.add_argument('--full', action='store_true', help='run everything, including very slow cases')
    options.add_argument('--json', type=Path, metavar='FILE', help='write the results to this file')
    return options


def start(options: argparse.Namespace) -> dict:
    """Applies the common options, and prints and returns the description of the machine."""
    if options.device == 'cuda' and not torch.cuda.is_available():
        sys.exit('--device cuda: PyTorch sees no CUDA device. Install a CUDA build of PyTorch, or use --device cpu.')
    if options.threads:
        torch.set_num_threads(options.threads)
    description = machine(options.device)
    for name, value in description.items():
        print(f'{name:12}{value}')
    return description


def machine(device: str) -> dict:
    packages = ('torch', 'torchvision', 'timm', 'triton', 'mamba_ssm', 'causal_conv1d')
    description = {
        'CPU': f'{_cpu_model()}, {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads',
        'load': ' '.join(f'{load:.1f}' for load in os.getloadavg()) + ' (other load on the machine affects times)',
        'native scan': native.unavailable_reason() or native.info(),
        'triton scan': triton_kernels.unavailable_reason() or 'can run',
        'versions': ', '.join(
            [f'python {platform.python_version()}', f'mmvmamba {mmvmamba.__version__}']
            + [f'{name} {_version(name)}' for name in packages if _version(name)]
        ),
    }
    if device == 'cuda':
        gpu = torch.cuda.get_device_properties(0)
        description['GPU'] = (
            f'{gpu.name}, {gpu.multi_processor_count} multiprocessors, {gpu.total_memory / 2**30:.0f} GiB, '
            f'CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}'
        )
    return description


def _cpu_model() -> str:
    if os.path.exists('/proc/cpuinfo'):
        for line in Path('/proc/cpuinfo').read_text().splitlines():
            if line.startswith('model name'):
                return line.split(':')[1].strip()
    return platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def seconds(run: Callable, inputs: list, device: str) -> float:
    """Returns the mean time of `run` over the inputs, measured by wall clock on a CPU and by CUDA events on a GPU."""
    if device == 'cuda':
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize()
        begin.record()
        for x in inputs:
            run(x)
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3 / len(inputs)
    begin = time.perf_counter()
    for x in inputs:
        run(x)
    return (time.perf_counter() - begin) / len(inputs)


def interleave(
    runs: dict[str, Callable],
    make_input: Callable[[int], object],
    device: str,
    rounds: int,
    limit: float = float('inf'),
) -> dict[str, list[float]]:
    """Times several functions in interleaved rounds.

    In every round, all functions get the same new inputs. Every second round runs them in reverse order, so slow phases
    of the machine and cache contents left by the previous function do not favour any of them.

    Args:
        runs: functions of one input, by name.
        make_input: creates an input from a seed.
        rounds: minimum number of rounds; up to four times as many are run if they take less than five seconds in total.
        limit: a function that takes longer than this number of seconds is run only in the warm-up.

    Returns:
        The seconds of each round, by name: a single time for functions over the limit, and an empty list for those that
        ran out of GPU memory.
    """
    first = [make_input(-1)]
    times = {}
    for name, run in runs.items():
        try:
            times[name] = [seconds(run, first, device)]
            if times[name][0] < min(limit, 10):  # the first run includes compiling, loading and allocation
                times[name] = [seconds(run, first, device)]
        except torch.cuda.OutOfMemoryError:
            times[name] = []
            torch.cuda.empty_cache()
    again = [name for name in runs if times[name] and times[name][0] <= limit]
    repeats = {name: min(10, max(1, round(SAMPLE_SECONDS[device] / times[name][0]))) for name in again}
    one_round = sum(times[name][0] * repeats[name] for name in again)
    times |= {name: [] for name in again}
    for i in range(max(rounds, min(4 * rounds, int(5 / one_round))) if again else 0):
        inputs = [make_input(i * 100 + j) for j in range(max(repeats.values()))]
        for name in again if i % 2 else again[::-1]:
            times[name].append(seconds(runs[name], inputs[: repeats[name]], device))
    return times


def ratios(times: list[float], others: list[float]) -> tuple[float, float, float]:
    """Returns median, lower quartile and upper quartile of times / others over the rounds."""
    if len(times) != len(others):
        ratio = statistics.median(times) / statistics.median(others)
        return ratio, ratio, ratio
    quotients = [a / b for a, b in zip(times, others)]
    if len(quotients) == 1:
        return quotients[0], quotients[0], quotients[0]
    lower, median, upper = statistics.quantiles(quotients, n=4, method='inclusive')
    return median, lower, upper


def return_memory_at_once() -> None:
    """Makes this process return freed tensors to the system at once, which takes time but makes peaks reproducible.

    Otherwise the heap of the C library retains a varying amount of freed memory.
    """
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).mallopt(-3, 1 << 16)  # M_MMAP_THRESHOLD


def peak_memory(run: Callable[[], object], device: str) -> int | None:
    """Returns the peak memory of `run()` in bytes above the memory in use before; None if /proc is not available."""
    gc.collect()
    if device == 'cuda':
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    try:
        ctypes.CDLL(None).malloc_trim(0)  # free heap memory would be reused without raising the peak
        Path('/proc/self/clear_refs').write_text('5')  # resets the peak to the current resident size
    except (AttributeError, OSError):
        return None
    before = resident()
    run()
    return max(0, resident('VmHWM') - before)


def resident(field: str = 'VmRSS') -> int:
    """Returns the memory of this process in bytes: current (VmRSS), peak (VmHWM) or without mapped files (RssAnon)."""
    for line in Path('/proc/self/status').read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise OSError(f'/proc/self/status has no {field}.')


def show(title: str, header: list[str], rows: list[list[str]]) -> None:
    """Prints a table with the first column left-aligned and the others right-aligned."""
    widths = [max(len(cell) for cell in column) for column in zip(header, *rows)]
    print(f'\n{title}')
    for row in (header, *rows):
        cells = [row[0].ljust(widths[0])] + [cell.rjust(width) for cell, width in zip(row[1:], widths[1:])]
        print('  ' + '  '.join(cells).rstrip(), flush=True)


def milliseconds(times: list[float] | None) -> str:
    """Formats the median; a star marks a single run."""
    if not times:
        return '-'
    return f'{statistics.median(times) * 1e3:.{3 if max(times) < 0.01 else 1}f}' + ('*' if len(times) == 1 else '')


def spread(ratio: tuple[float, float, float] | None, digits: int = 2) -> str:
    if ratio is None:
        return '-'
    return f'{ratio[0]:.{digits}f} ({ratio[1]:.{digits}f}-{ratio[2]:.{digits}f})'


def mebibytes(size: int | None) -> str:
    return '-' if size is None else f'{size / 2**20:.1f}'


def write_json(file: Path | None, description: dict, options: argparse.Namespace, results: list[dict]) -> None:
    if file is None:
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    chosen = {name: value for name, value in vars(options).items() if not isinstance(value, Path)}
    file.write_text(json.dumps(dict(machine=description, options=chosen, results=results), indent=1) + '\n')
    print(f'\nWritten to {file}.')
