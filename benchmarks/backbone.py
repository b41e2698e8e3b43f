"""What VMamba costs beside Swin, ConvNeXt and ResNet-50: inference and training, time and memory.

    python benchmarks/backbone.py [--device cuda] [--dtype float16] [--batch 128] [--full] [--json FILE] [--plot FILE]

Every network is its backbone alone, without pooling and classifier, with random weights. benchmarks/README.md says how
it is measured.
"""

import argparse
import statistics
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import measure
import torch
import torchvision
from torch import Tensor, nn

from mmvmamba import VMamba
from mmvmamba.ops import use_backend
from mmvmamba.ops.backend import BACKENDS

BASELINE = 'Swin-T'
TINY = ('VMamba-T', 'Swin-T', 'ConvNeXt-T', 'ResNet-50')
FULL = (*TINY, 'VMamba-S', 'Swin-S', 'VMamba-B', 'Swin-B')
BUILDERS = {
    'VMamba-T': partial(VMamba, 'tiny'),
    'VMamba-S': partial(VMamba, 'small', drop_path_rate=0.3),
    'VMamba-B': partial(VMamba, 'base', drop_path_rate=0.6),
    'Swin-T': torchvision.models.swin_t,
    'Swin-S': torchvision.models.swin_s,
    'Swin-B': torchvision.models.swin_b,
    'ConvNeXt-T': torchvision.models.convnext_tiny,
    'ResNet-50': torchvision.models.resnet50,
}
WITHOUT_CUDNN = ', no cuDNN'
SCAN = ', scan '  # 'VMamba-T, scan blocked'


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    model = BUILDERS[name.split(',')[0]]()
    if isinstance(model, torchvision.models.ResNet):
        return nn.Sequential(*list(model.children())[:-2])
    return getattr(model, 'features', model)  # Swin and ConvNeXt: all but norm, pooling and head


def step(name: str, model: nn.Module, training: bool, options: argparse.Namespace, images: Tensor) -> None:
    """One inference, or forward and backward with the sum of the outputs' means as the loss."""
    model.zero_grad()
    scan = name.split(SCAN)[1].split(',')[0] if SCAN in name else 'auto'
    autocast = torch.autocast(options.device, measure.DTYPES[options.dtype], enabled=options.dtype != 'float32')
    cudnn = torch.backends.cudnn.flags(enabled=not name.endswith(WITHOUT_CUDNN))
    with cudnn, use_backend(scan):
        with torch.set_grad_enabled(training), autocast:
            outs = model(images)
        if training:
            sum(out.float().mean() for out in (outs if isinstance(outs, tuple) else [outs])).backward()


def make_images(seed: int, size: int, options: argparse.Namespace) -> Tensor:
    generator = torch.Generator(options.device).manual_seed(seed & 0xFFFFFFFF)
    return torch.randn(options.batch, 3, size, size, generator=generator, device=options.device)


def time_all(names: list[str], size: int, training: bool, options: argparse.Namespace) -> dict[str, list[float]]:
    models = {name: build(name).to(options.device).train(training) for name in names}
    runs = {name: partial(step, name, model, training, options) for name, model in models.items()}
    return measure.interleave(runs, partial(make_images, size=size, options=options), options.device, options.rounds)


def memory_of(name: str, jobs: list[tuple[int, bool]], options: argparse.Namespace) -> list[int | None]:
    """Peak above the loaded model, for each (size, training); meant for a process of its own."""
    if options.threads:
        torch.set_num_threads(options.threads)
    model = build(name).to(options.device)
    step(name, model.train(), True, options, make_images(0, 64, options))  # what libraries load and keep at first use
    model.zero_grad()
    peaks = []
    for size, training in jobs:
        images = make_images(0, size, options)
        run = partial(step, name, model.train(training), training, options, images)
        peaks.append(measure.peak_memory(run, options.device))
        model.zero_grad()
    return peaks


def jobs_of(name: str, options: argparse.Namespace) -> list[tuple[int, bool]]:
    """The (size, training) that a model is measured at."""
    largest = name in ('VMamba-T', BASELINE) or options.full or options.device == 'cuda'
    inference = [(size, False) for size in options.sizes if size <= 1024 or largest]
    return inference + [(size, True) for size in options.train_sizes]


def variants(options: argparse.Namespace) -> list[str]:
    names = list(FULL if options.full else TINY)
    peers = ['mamba_ssm'] if options.device == 'cuda' and BACKENDS['mamba_ssm']() is None else []
    names += [f'VMamba-T{SCAN}{scan}' for scan in (peers if options.scans is None else options.scans)]
    if options.device == 'cuda':
        names += [name + WITHOUT_CUDNN for name in names]
    return names


def show(size: int, training: bool, rows: list[dict], options: argparse.Namespace) -> None:
    title = f'{"Training step" if training else "Inference"} at {size}x{size}, batch {options.batch}, {options.dtype}'
    header = ['', 'ms', 'images/s', 'ns per pixel', f'x {BASELINE}', 'peak MiB']
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


def plot(file: Path, results: list[dict], batch: int) -> None:
    """Time and memory per pixel of inference against the image size."""
    try:
        import matplotlib
    except ImportError:
        print('--plot: matplotlib is not installed; `pip install matplotlib` gets it. No picture is drawn.')
        return
    matplotlib.use('agg')
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout='constrained')
    rows = [row for row in results if not row['training']]
    for name in dict.fromkeys(row['model'] for row in rows):
        mine = [row for row in rows if row['model'] == name]
        sizes = [row['size'] for row in mine]
        style = dict(marker='o', linewidth=2.5 if name.startswith('VMamba') else 1.2, label=name)
        pixels = [batch * size**2 for size in sizes]
        left.plot(sizes, [statistics.median(row['seconds']) / p * 1e9 for row, p in zip(mine, pixels)], **style)
        if all(row['peak_bytes'] is not None for row in mine):
            right.plot(sizes, [row['peak_bytes'] / p for row, p in zip(mine, pixels)], **style)
    ticks = sorted({row['size'] for row in rows})
    for axes, label in ((left, 'nanoseconds per pixel'), (right, 'peak bytes per pixel')):
        axes.set(xscale='log', xlabel='image side, pixels', ylabel=label, ylim=(0, None))
        axes.set_xticks(ticks, ticks)
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    left.legend()
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=150)
    print(f'Drawn in {file}.')


def main() -> None:
    parser = measure.parser(__doc__.splitlines()[0])
    parser.add_argument('--sizes', type=int, nargs='*', default=[224, 512, 1024, 2048], help='of images for inference')
    parser.add_argument('--train-sizes', type=int, nargs='*', default=[512], help='of images for training steps')
    parser.add_argument('--scans', nargs='*', choices=list(BACKENDS), help='VMamba-T with these, too (default: peers)')
    parser.add_argument('--plot', type=Path, metavar='FILE', help='draw time and memory per pixel there')
    options = parser.parse_args()
    machine = measure.start(options)
    print(f'\nMedians of interleaved rounds. "x {BASELINE}": ratio of times, median and quartiles of the rounds.')
    print('peak MiB: above the loaded model, from a process of its own for each model.')

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
                ratio=measure.ratios(seconds, times[BASELINE]),
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
