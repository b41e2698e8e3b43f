"""Draws the chart of the README from stored results: inference time per image, relative to a transformer.

    python benchmarks/speed_chart.py [--file docs/speed.png]

It reads files in results/ that `backbone.py --json` wrote.
"""

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use('agg')
from matplotlib import pyplot as plt

RESULTS = Path(__file__).parent / 'results'
# Stored results (the first file that has a size counts), networks, and baseline.
PANELS = (
    (('cpu_backbone.json',), ('VMamba-T', 'ConvNeXt-T', 'ResNet-50'), 'Swin-T'),
    (('cpu_vim_9_rounds.json', 'cpu_vim.json'), ('Vim-Ti',), 'DeiT-Ti'),
)


def draw(axes, rows: list[dict], networks: tuple[str, ...], baseline: str) -> None:
    """Plots the median ratio of each network over the image size, and the quartiles as a band."""
    axes.axhline(1, color='black', linewidth=1.2, label=baseline)
    for name, color in zip(networks, ('tab:red', 'tab:gray', 'tab:blue')):
        ratios = {}
        for row in rows:
            if row['model'] == name and not row['training']:
                ratios.setdefault(row['size'], row['ratio'])
        sizes = sorted(ratios)
        median, low, high = zip(*(ratios[size] for size in sizes))
        axes.plot(sizes, median, marker='o', color=color, linewidth=2, label=name)
        axes.fill_between(sizes, low, high, color=color, alpha=0.2, linewidth=0)
    axes.set_xticks(sizes, sizes)
    axes.minorticks_off()
    axes.set(xlabel='image side in pixels', ylabel=f'time / time of {baseline}', ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or '').partition('\n')[0])
    parser.add_argument('--file', type=Path, default=Path('docs/speed.png'), help='default: docs/speed.png')
    options = parser.parse_args()
    figure, panels = plt.subplots(1, 2, figsize=(9, 3.2), layout='constrained')
    for axes, (results, networks, baseline) in zip(panels, PANELS):
        rows = [row for file in results for row in json.loads((RESULTS / file).read_text())['results']]
        draw(axes, rows, networks, baseline)
    figure.suptitle('Inference in PyTorch on a CPU (2 cores, float32), below 1 is faster')
    figure.savefig(options.file, dpi=110)
    print(f'Figure written to {options.file}.')


if __name__ == '__main__':
    main()
