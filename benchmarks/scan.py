"""Measures time and memory of the selective scan, for all available backends and peers, on VMamba and Vim shapes.

    python benchmarks/scan.py [--device cuda] [--dtype float16] [--batch 128] [--cases 'N = 1'] [--full] [--json FILE]

Measures the forward pass alone, and forward + backward with gradients for every input. benchmarks/README.md describes
the method.
"""

from collections.abc import Callable
from functools import partial
from math import prod

import measure
import peers
import torch
from torch import Tensor

from mmvmamba.ops import CROSS, selective_scan_2d, use_backend
from mmvmamba.ops.scan.backends import SCAN

LOOP = 'PyTorch loop'
LONG = 1000  # maximum number of positions for the backward pass of the reference, whose cost is quadratic in them

# VMamba: one map for four traversals; rank 0 means dt at full width. Vim: two maps of height 1, N = 16.
CASES = {
    '56x56x96, N = 1': dict(size=(56, 56), channels=96),
    '256x256x96, N = 1': dict(size=(256, 256), channels=96),
    '56x56x96, N = 16': dict(size=(56, 56), channels=96, states=16),
    'VMamba-T stage 1 at 224: 56x56x96, rank 6': dict(size=(56, 56), channels=96, rank=6),
    'VMamba-T stage 2 at 224: 28x28x192, rank 12': dict(size=(28, 28), channels=192, rank=12),
    'VMamba-T stage 3 at 224: 14x14x384, rank 24': dict(size=(14, 14), channels=384, rank=24),
    'VMamba-T stage 4 at 224: 7x7x768, rank 48': dict(size=(7, 7), channels=768, rank=48),
    'Vim-Ti at 1248: 2 maps of 1x6084x384, N = 16, rank 12': dict(
        size=(1, 6084), channels=384, states=16, rank=12, traversals=('row', 'row_reversed'), shared=False
    ),
}


def make_inputs(
    seed: int,
    device: str,
    dtype: torch.dtype,
    batch: int,
    size: tuple[int, int],
    channels: int,
    states: int = 1,
    rank: int = 0,
    traversals: tuple[str, ...] = CROSS,
    shared: bool = True,
) -> dict[str, Tensor | None]:
    """Creates inputs like those in a network: B, C and the low-rank dt are views of one projection; A is -1 to -n."""
    generator = torch.Generator(device).manual_seed(seed & 0xFFFFFFFF)
    K = len(traversals)

    def randn(*shape):
        return torch.randn(*shape, generator=generator, device=device)

    projection = randn(batch, *size, K, rank + 2 * states).permute(0, 3, 1, 2, 4).to(dtype)
    low_rank, B, C = projection.split((rank, states, states), -1)
    return dict(
        x=randn(batch, *size, channels).to(dtype) if shared else randn(batch, K, *size, channels).to(dtype),
        dt=low_rank if rank else randn(batch, K, *size, channels).to(dtype),
        A=-torch.arange(1.0, states + 1, device=device).repeat(K, channels, 1),
        B=B,
        C=C,
        D=torch.ones(K, channels, device=device),
        dt_bias=randn(K, channels) - 2,
        dt_weight=randn(K, channels, rank) * rank**-0.5 if rank else None,
    )


def implementations(device: str) -> dict[str, tuple[Callable[..., Tensor], str]]:
    """Returns (function, backend to select) of each available implementation, by name."""
    found = {LOOP: (peers.batched_loop, 'auto')}
    skipped = {}
    for name, backend in SCAN.backends.items():
        if backend.devices and device not in backend.devices:
            continue
        if reason := backend.unavailable_reason():
            skipped[name] = reason
        else:
            found[name] = (selective_scan_2d, name)
    if device == 'cuda':
        if reason := peers.oflex_unavailable_reason():
            skipped['oflex'] = reason
        else:
            found['oflex'] = (peers.oflex, 'auto')
    for name, reason in skipped.items():
        print(f'skipped: {name}: {reason}')
    return found


def forward(function, backend, traversals, inputs: dict) -> None:
    with torch.no_grad(), use_backend(backend):
        function(**inputs, traversals=traversals)


def forward_backward(function, backend, traversals, inputs: dict) -> None:
    inputs = {name: t if t is None else t.detach().requires_grad_() for name, t in inputs.items()}
    with use_backend(backend):
        y = function(**inputs, traversals=traversals)
        x = inputs['x'].detach()
        y.backward(x if y.shape == x.shape else x[:, 0])


def measure_case(name: str, case: dict, functions: dict, options) -> list[dict]:
    traversals = case.get('traversals', CROSS)
    make = partial(make_inputs, device=options.device, dtype=measure.DTYPES[options.dtype], batch=options.batch, **case)
    limit = float('inf') if options.full else options.limit
    rows: dict[str, dict] = {key: dict(case=name, implementation=key) for key in functions}
    candidates = list(functions)
    for mode, step in (('forward', forward), ('forward_backward', forward_backward)):
        runs = {key: partial(step, *functions[key], traversals) for key in candidates}
        times = measure.interleave(runs, make, options.device, options.rounds, limit)
        inputs = make(0)
        candidates = [key for key in candidates if times[key]]
        for key in candidates:
            rows[key][mode] = dict(
                seconds=times[key],
                times_faster_than_loop=measure.ratios(times[LOOP], times[key]) if times.get(LOOP) else None,
                peak_bytes=measure.peak_memory(partial(runs[key], inputs), options.device),
            )
        candidates = [key for key in candidates if times[key][0] <= limit]
        if prod(case['size']) > LONG and 'reference' in candidates:
            candidates.remove('reference')
    return list(rows.values())


def show(name: str, rows: list[dict], batch: int) -> None:
    header = ['', 'forward ms', 'x loop', 'MiB', 'forward + backward ms', 'x loop', 'MiB']
    cells = []
    for row in rows:
        line = [row['implementation']]
        for mode in ('forward', 'forward_backward'):
            if mode in row:
                result = row[mode]
                line += [measure.milliseconds(result['seconds']), measure.spread(result['times_faster_than_loop'], 1)]
                line += [measure.mebibytes(result['peak_bytes'])]
            else:
                line += ['-'] * 3
        cells.append(line)
    measure.show(f'{name}, batch {batch}', header, cells)


def main() -> None:
    parser = measure.parser(__doc__)
    parser.add_argument('--limit', type=float, default=1.0, help='run slower cases only once (default: 1 second)')
    parser.add_argument('--cases', nargs='*', help='run only the cases whose title contains one of these')
    options = parser.parse_args()
    machine = measure.start(options)
    functions = implementations(options.device)
    print(
        '\nTimes are medians of interleaved rounds. "x loop": speed-up over the PyTorch loop, median and quartiles over'
    )
    print('the rounds. MiB: peak memory above the inputs. *: single run, because it takes longer than --limit.')
    results = []
    for name, case in CASES.items():
        if options.cases and not any(part in name for part in options.cases):
            continue
        rows = measure_case(name, case, functions, options)
        show(name, rows, options.batch)
        results += rows
    measure.write_json(options.json, machine, options, results)


if __name__ == '__main__':
    main()
