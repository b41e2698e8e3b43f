"""Draws the figure of backbone.py: time and peak memory per pixel over the image size.

python benchmarks/backbone_figure.py benchmarks/results/cpu_vim.json benchmarks/results/cpu_vim.png
"""

import argparse
import json
import statistics
from pathlib import Path


def plot(file: Path, results: list[dict], batch: int) -> None:
    """Draws inference and, below it, training, each if it was measured at several sizes."""
    try:
        import matplotlib
    except ImportError:
        print('No figure is written, because matplotlib is not installed: run `pip install matplotlib`.')
        return
    matplotlib.use('agg')
    from matplotlib import pyplot as plt

    kinds = [kind for kind in (False, True) if len({row['size'] for row in results if row['training'] == kind}) > 1]
    if not kinds:
        print('No figure is written, because all results have the same image size: pass several sizes.')
        return
    colors = {name: f'C{number}' for number, name in enumerate(dict.fromkeys(row['model'] for row in results))}
    figure, axes = plt.subplots(len(kinds), 2, figsize=(9, 3.4 * len(kinds) + 0.6), layout='constrained', squeeze=False)
    for training, (left, right) in zip(kinds, axes):
        plot_kind(left, right, [row for row in results if row['training'] == training], batch, colors)
        kind = 'Training step' if training else 'Inference'
        left.set_title(f'{kind}: time per pixel')
        right.set_title(f'{kind}: peak memory per pixel')
    lines = {line.get_label(): line for panel in axes.flat for line in panel.get_lines()}
    # above the panels, where it covers no curve
    figure.legend(lines.values(), lines.keys(), loc='outside upper center', ncols=5)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=150)
    print(f'Figure written to {file}.')


def plot_kind(left, right, rows: list[dict], batch: int, colors: dict[str, str]) -> None:
    """Draws time on the left axes and memory on the right axes."""
    for name in dict.fromkeys(row['model'] for row in rows):
        mine = [row for row in rows if row['model'] == name]
        sizes = [row['size'] for row in mine]
        width = 2.5 if name.startswith(('VMamba', 'Vim')) else 1.2
        style = dict(marker='o', linewidth=width, label=name, color=colors[name])
        pixels = [batch * size**2 for size in sizes]
        left.plot(sizes, [statistics.median(row['seconds']) / p * 1e9 for row, p in zip(mine, pixels)], **style)
        if all(row['peak_bytes'] is not None for row in mine):
            right.plot(sizes, [row['peak_bytes'] / p for row, p in zip(mine, pixels)], **style)
    ticks = sorted({row['size'] for row in rows})
    for axes, label in ((left, 'nanoseconds per pixel'), (right, 'bytes per pixel')):
        axes.set(xscale='log', xlabel='image side in pixels', ylabel=label, ylim=(0, None))
        axes.set_xticks(ticks, ticks)
        axes.minorticks_off()
        axes.grid(alpha=0.3)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or '').partition('\n')[0])
    parser.add_argument('results', type=Path, help='file that backbone.py --json has written')
    parser.add_argument('figure', type=Path)
    options = parser.parse_args()
    stored = json.loads(options.results.read_text())
    plot(options.figure, stored['results'], stored['options']['batch'])


if __name__ == '__main__':
    main()
