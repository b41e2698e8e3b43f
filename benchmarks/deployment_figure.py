"""Draws the figure of deployment.py: the time of each network in each runtime.

python benchmarks/deployment_figure.py benchmarks/results/cpu_deployment.json benchmarks/results/cpu_deployment.png
"""

import argparse
import json
from pathlib import Path

COLORS = {'PyTorch': 'C7', 'onnxruntime': 'C0', 'OpenVINO': 'C2', 'OpenVINO bfloat16': 'C1'}


def plot(file: Path, results: list[dict], baseline: str) -> None:
    """Draws one panel per image size, with one bar per network and runtime."""
    import matplotlib

    matplotlib.use('agg')
    from matplotlib import pyplot as plt

    sizes = sorted({row['size'] for row in results})
    figure, panels = plt.subplots(1, len(sizes), figsize=(3.4 * len(sizes) + 1.2, 4), layout='constrained', sharey=True)
    for size, panel in zip(sizes, [panels] if len(sizes) == 1 else panels):
        rows = [row for row in results if row['size'] == size]
        networks, runtimes = (list(dict.fromkeys(row[key] for row in rows)) for key in ('network', 'runtime'))
        for row in rows:
            place = networks.index(row['network']) * (len(runtimes) + 1) + runtimes.index(row['runtime'])
            median, lower, upper = row['ratio_to_eager']
            panel.barh(place, median, color=COLORS[row['runtime']], label=row['runtime'], height=0.9)
            panel.plot((lower, upper), (place, place), color='black', linewidth=1)
            panel.text(upper, place, f' {median:.2f}', va='center', fontsize=8)
        centres = [i * (len(runtimes) + 1) + (len(runtimes) - 1) / 2 for i in range(len(networks))]
        panel.set_yticks(centres, networks)
        panel.set(title=f'{size} x {size}', xlabel=f'time / time of {baseline} in PyTorch')
        panel.set_xlim(0, 1.15 * max(row['ratio_to_eager'][2] for row in rows))
        panel.axvline(1, color='black', linewidth=0.6, linestyle=':')
    figure.axes[0].invert_yaxis()
    handles, labels = figure.axes[0].get_legend_handles_labels()
    unique = dict(zip(labels, handles))
    figure.legend(list(unique.values()), list(unique), loc='outside upper center', ncols=4 if len(sizes) > 1 else 2)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=150)
    print(f'Figure written to {file}.')


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or '').partition('\n')[0])
    parser.add_argument('results', type=Path, help='file that deployment.py --json has written')
    parser.add_argument('figure', type=Path)
    options = parser.parse_args()
    stored = json.loads(options.results.read_text())
    networks = dict.fromkeys(row['network'] for row in stored['results'])
    plot(options.figure, stored['results'], next(name for name in networks if name in ('Swin-T', 'DeiT-Ti')))


if __name__ == '__main__':
    main()
