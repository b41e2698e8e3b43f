"""Measures time and memory of the backbones and their peers, for inference and training.

    python benchmarks/backbone.py [--family vim [--fpn]] [--device cuda] [--dtype float16] [--batch 128] [--full]
                                  [--with-cp] [--compiled] [--json FILE] [--plot FILE]

VMamba is compared with Swin, ConvNeXt and ResNet-50, and Vim with DeiT. benchmarks/README.md describes the method.
"""

import argparse
import statistics
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path

import measure
import torch
from backbone_figure import plot
from networks import COMPILED, FAMILIES, FPN, PLAIN_ATTENTION, WITH_CP, build
from torch import Tensor, nn

from mmvmamba.ops import use_backend
from mmvmamba.ops.scan import backends

BACKENDS = backends.SCAN.backends
WITHOUT_CUDNN = ', no cuDNN'
SCAN = ', scan '  # as in 'VMamba-T, scan chunked'


def step(name: str, model: nn.Module, training: bool, options: argparse.Namespace, images: Tensor) -> None:
    """Runs one inference, or one forward and backward pass with the sum of the output means as the loss."""
    model.zero_grad()
    scan = name.split(SCAN)[1].split(',')[0] if SCAN in name else 'auto'
    autocast = torch.autocast(options.device, measure.DTYPES[options.dtype], enabled=options.dtype != 'float32')
    cudnn = torch.backends.cudnn.flags(enabled=not name.endswith(WITHOUT_CUDNN))
    with cudnn, use_backend(scan):
        with torch.set_grad_enabled(training), autocast:
            outs = model(images)
        if training:
            outs = outs if isinstance(outs, tuple) else [outs]
            torch.stack([out.float().mean() for out in outs]).sum().backward()


def make_images(seed: int, size: int, options: argparse.Namespace) -> Tensor:
    generator = torch.Generator(options.device).manual_seed(seed & 0xFFFFFFFF)
    return torch.randn(options.batch, 3, size, size, generator=generator, device=options.device)


def time_all(names: list[str], size: int, training: bool, options: argparse.Namespace) -> dict[str, list[float]]:
    models = {name: build(name, size).to(options.device).train(training) for name in names}
    runs = {name: partial(step, name, model, training, options) for name, model in models.items()}
    return measure.interleave(runs, partial(make_images, size=size, options=options), options.device, options.rounds)


def memory_of(name: str, jobs: list[tuple[int, bool]], options: argparse.Namespace) -> list[int | None]:
    """Returns the peak memory above the loaded model for each (size, training). Call it in a separate process."""
    if options.threads:
        torch.set_num_threads(options.threads)
    measure.return_memory_at_once()
    for training in (True, False):  # warm-up: libraries allocate memory at first use
        model = build(name, 64).to(options.device).train(training)
        step(name, model, training, options, make_images(0, 64, options))
    peaks = []
    for size, training in jobs:
        model, images = build(name, size).to(options.device).train(training), make_images(0, size, options)
        peaks.append(measure.peak_memory(partial(step, name, model, training, options, images), options.device))
    return peaks


def jobs_of(name: str, options: argparse.Namespace) -> list[tuple[int, bool]]:
    """Returns the (size, training) pairs at which a model is measured."""
    family = FAMILIES[options.family]
    largest = name.removesuffix(FPN) in (family.names[0], family.baseline) or options.full or options.device == 'cuda'
    inference = [(size, False) for size in options.sizes if (size < 2048 or largest) and WITH_CP not in name]
    hungry = PLAIN_ATTENTION in name and not options.full  # needs several GiB from size 1024
    return inference + [(size, True) for size in options.train_sizes if size <= 512 or not hungry]


def variants(options: argparse.Namespace) -> list[str]:
    family = FAMILIES[options.family]
    names = list(family.names + family.larger if options.full else family.names)
    peers = ['mamba_ssm'] if options.device == 'cuda' and BACKENDS['mamba_ssm'].unavailable_reason() is None else []
    names += [f'{names[0]}{SCAN}{scan}' for scan in (peers if options.scans is None else options.scans)]
    names += [names[0] + WITH_CP] if options.with_cp else []
    names += [name + COMPILED for name in (names[0], family.baseline)] if options.compiled else []
    names = [name + FPN for name in names] if options.fpn else names
    if options.device == 'cuda':
        names += [name + WITHOUT_CUDNN for name in names]
    return names


def baseline(options: argparse.Namespace) -> str:
    return FAMILIES[options.family].baseline + (FPN if options.fpn else '')


def show(size: int, training: bool, rows: list[dict], options: argparse.Namespace) -> None:
    title = f'{"Training step" if training else "Inference"} at {size}x{size}, batch {options.batch}, {options.dtype}'
    header = ['', 'ms', 'images/s', 'ns per pixel', f'x {baseline(options)}', 'peak MiB']
    cells = []
    for row in rows:
        median = statistics.median(row['seconds'])
        cells.append(
            [
                row['model'],
                measure.milliseconds(row['seconds']),
                f'{options.batch / median:.2f}',
                f'{median / options.batch / size**2 * 1e9:.0f}',
                measure.spread(row['ratio']),
                measure.mebibytes(row['peak_bytes']),
            ]
        )
    measure.show(title, header, cells)


def parse_options() -> argparse.Namespace:
    parser = measure.parser(__doc__)
    parser.add_argument('--family', choices=FAMILIES, default='vmamba', help='networks to compare (default: vmamba)')
    parser.add_argument('--fpn', action='store_true', help='add a simple feature pyramid (only for vim)')
    parser.add_argument('--sizes', type=int, nargs='*', help='image sizes for inference (default: set by the family)')
    parser.add_argument('--train-sizes', type=int, nargs='*', help='image sizes for training (default: as for --sizes)')
    parser.add_argument(
        '--scans', nargs='*', choices=list(BACKENDS), help='additionally measure ours with these scans (default: peers)'
    )
    parser.add_argument('--with-cp', action='store_true', help='additionally measure ours with checkpointed blocks')
    parser.add_argument(
        '--compiled', action='store_true', help='additionally measure ours and the baseline with torch.compile'
    )
    parser.add_argument('--plot', type=Path, metavar='FILE', help='write a figure of time and memory per pixel here')
    options = parser.parse_args()
    family = FAMILIES[options.family]
    options.sizes = family.sizes if options.sizes is None else options.sizes
    options.train_sizes = family.train_sizes if options.train_sizes is None else options.train_sizes
    if options.fpn and not family.pyramid:
        parser.error(f'--fpn: the networks of --family {options.family} already return several maps; use --family vim.')
    if options.family == 'vim' and find_spec('timm') is None:
        sys.exit("--family vim needs timm's DeiT, but timm is not installed; run `pip install timm`.")
    return options


def main() -> None:
    options = parse_options()
    machine = measure.start(options)
    print('\nTimes are medians of interleaved rounds.')
    print(f'x {baseline(options)}: time ratio, median and quartiles over the rounds.')
    print('peak MiB: peak memory above the loaded model, measured in a separate process per model.')

    names = variants(options)
    peaks = {}
    for name in names:
        with ProcessPoolExecutor(1, mp_context=get_context('spawn')) as pool:
            jobs = jobs_of(name, options)
            peaks |= zip([(name, job) for job in jobs], pool.submit(memory_of, name, jobs, options).result())

    results = []
    for size, training in [(size, False) for size in options.sizes] + [(size, True) for size in options.train_sizes]:
        job = size, training
        times = time_all([name for name in names if job in jobs_of(name, options)], size, training, options)
        rows = [
            dict(
                model=name,
                size=size,
                training=training,
                seconds=seconds,
                ratio=measure.ratios(seconds, times[baseline(options)]),
                peak_bytes=peaks[name, job],
            )
            for name, seconds in times.items()
        ]
        show(size, training, rows, options)
        results += rows
    measure.write_json(options.json, machine, options, results)
    if options.plot:
        plot(options.plot, results, options.batch)


if __name__ == '__main__':
    main()
