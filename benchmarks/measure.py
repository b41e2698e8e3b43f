"""What the benchmarks share: fair timing, peak memory, the description of a machine, and how results are written."""

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
from mmvmamba.ops import native, triton

DTYPES = {'float32': torch.float32, 'float16': torch.float16, 'bfloat16': torch.bfloat16}
# A shorter run is repeated, each time on another input; the mean of the repeats is one sample.
SAMPLE_SECONDS = {'cpu': 0.02, 'cuda': 0.002}


def parser(description: str) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    options = argparse.ArgumentParser(description=description)
    options.add_argument('--device', choices=('cpu', 'cuda'), default='cpu')
    options.add_argument('--dtype', choices=DTYPES, default='float32')
    options.add_argument('--batch', type=int, default=1)
    options.add_argument('--rounds', type=int, default=9, help='measured rounds, at least (default: 9)')
    options.add_argument('--threads', type=int, help="CPU threads (default: PyTorch's choice)")
    options.add_argument('--full', action='store_true', help='everything, however long it takes')
    options.add_argument('--json', type=Path, metavar='FILE', help='write the results there')
    return options


def start(options: argparse.Namespace) -> dict:
    """Apply the common options, print the machine and return its description."""
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
        'load': ' '.join(f'{load:.1f}' for load in os.getloadavg()) + ' (of other work, too, which blurs times)',
        'native scan': native.unavailable_reason() or native.info(),
        'triton scan': triton.unavailable_reason() or 'can run',
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
    """Mean time of `run` on each of the inputs: by the wall clock on the CPU, by events on a GPU."""
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
    """Time several things against each other.

    In every round each of them gets the same fresh inputs, and every other round goes through them backwards, so that a
    slow spell of the machine, or what one leaves in the caches for the next, does not favour any.

    Args:
        runs: functions of one input, by name.
        make_input: of a seed.
        rounds: at least this many; up to four times as many while that takes less than five seconds in all.
        limit: what takes more seconds than this is run once, in the warm-up, and not again.

    Returns:
        seconds of each round, by name; a single time for what is over the limit, none for what the memory did not hold.
    """
    first = [make_input(-1)]
    times = {}
    for name, run in runs.items():
        try:
            times[name] = [seconds(run, first, device)]
            if times[name][0] < min(limit, 10):  # the first of all also paid for compiling, loading and allocating
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
    """times / others, round by round: median, and lower and upper quartile."""
    if len(times) != len(others):
        ratio = statistics.median(times) / statistics.median(others)
        return ratio, ratio, ratio
    quotients = [a / b for a, b in zip(times, others)]
    if len(quotients) == 1:
        return quotients[0], quotients[0], quotients[0]
    lower, median, upper = statistics.quantiles(quotients, n=4, method='inclusive')
    return median, lower, upper


def return_memory_at_once() -> None:
    """Have this process give freed tensors back to the system, which takes time but makes peaks repeatable.

    Otherwise the C library's heap keeps holes of freed memory, more or fewer as it happens.
    """
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).mallopt(-3, 1 << 16)  # M_MMAP_THRESHOLD


def peak_memory(run: Callable[[], object], device: str) -> int | None:
    """Bytes at the peak of `run()` above what is held before it; None if the system does not say (CPU, not Linux)."""
    gc.collect()
    if device == 'cuda':
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    try:
        ctypes.CDLL(None).malloc_trim(0)  # or freed memory that the C library keeps would be filled first, unseen
        Path('/proc/self/clear_refs').write_text('5')  # sets the peak back to what is resident now
    except (AttributeError, OSError):
        return None
    before = resident()
    run()
    return max(0, resident('VmHWM') - before)


def resident(field: str = 'VmRSS') -> int:
    """Bytes of this process in memory: all now (VmRSS), at the peak (VmHWM), without mapped files (RssAnon)."""
    for line in Path('/proc/self/status').read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise OSError(f'/proc/self/status has no {field}.')


def show(title: str, header: list[str], rows: list[list[str]]) -> None:
    """Print a table: the first column to the left, the others to the right."""
    widths = [max(len(cell) for cell in column) for column in zip(header, *rows)]
    print(f'\n{title}')
    for row in (header, *rows):
        cells = [row[0].ljust(widths[0])] + [cell.rjust(width) for cell, width in zip(row[1:], widths[1:])]
        print('  ' + '  '.join(cells).rstrip(), flush=True)


def milliseconds(times: list[float] | None) -> str:
    """The median; a star says that there was only one run."""
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
