"""Trains and tests the demo models with several seeds, and writes the figures of the demos into the READMEs.

    python benchmarks/demos.py            # run what is missing in results/demos.json, then write the READMEs
    python benchmarks/demos.py --renew    # forget the stored results first
    python benchmarks/demos.py --seeds    # no runs: only write the READMEs from the stored results

Each run is `tools/demo.sh CONFIG`, as in `make demo`, and overwrites work_dirs/demo/CONFIG. The results are stored
after every run, so an interrupted benchmark continues where it stopped.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

from measure import machine, write_json
from scipy.stats import t as student

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / 'benchmarks/results/demos.json'
READMES = (ROOT / 'README.md', ROOT / 'benchmarks/README.md')

BOX_AP, MASK_AP, MIOU, ACCURACY = 'coco/bbox_mAP', 'coco/segm_mAP', 'mIoU', 'accuracy/top1'
TITLES = {BOX_AP: 'box AP', MASK_AP: 'mask AP', MIOU: 'mIoU', ACCURACY: 'accuracy'}
# The models of a group have the same heads, data and schedule. The first of each group is trained by `make`.
GROUPS = {
    'Mask R-CNN': (
        (BOX_AP, MASK_AP),
        {
            'mask-rcnn_vmamba-demo_fpn_coins': 'small VMamba (`make demo`)',
            'mask-rcnn_vim-demo_sfp_coins': 'small Vim, simple feature pyramid',
            'mask-rcnn_r18_fpn_coins': 'ResNet-18',
        },
    ),
    'UperNet': (
        (MIOU,),
        {
            'vmamba-demo_upernet_coins': 'small VMamba (`make demo-seg`)',
            'vim-demo_upernet_coins': 'small Vim',
            'r18_upernet_coins': 'ResNet-18',
        },
    ),
    'Digits': (
        (ACCURACY,),
        {
            'vmamba-demo_digits': 'small VMamba (`make demo-cls`)',
            'vim-demo_digits': 'small Vim, class token in the middle',
            'r18_digits': 'ResNet-18 with half the width',
        },
    ),
}
LEAST_FREEDOM = 4  # with fewer repeated runs, an estimated deviation is not reliable
CONFIGS = [config for _, models in GROUPS.values() for config in models]


def planned_runs(seeds: list[int]) -> list[tuple[str, int, int]]:
    """Returns config, seed and threads of each run: all configs on one thread, then VMamba's first seed on two."""
    runs = [(config, seed, 1) for seed in seeds for config in CONFIGS]
    return runs + [(config, seed, 2) for seed in seeds[:1] for config in CONFIGS if 'vmamba' in config]


def train_and_test(config: str, seed: int, threads: int) -> dict:
    command = ['bash', 'tools/demo.sh', f'configs/demo/{config}.py', '--cfg-options', f'randomness.seed={seed}']
    begin = time.monotonic()
    run = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {'OMP_NUM_THREADS': str(threads)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if run.returncode:
        sys.exit(f'{run.stdout}\n{" ".join(command)} failed')
    (file,) = (ROOT / 'work_dirs/demo' / config / 'test').glob('*/*.json')
    metrics = json.loads(file.read_text())
    result = dict(config=config, seed=seed, threads=threads, seconds=round(time.monotonic() - begin))
    return result | {name: metrics[name] for name in (*TITLES, 'coco/bbox_mAP_50') if name in metrics}


def expected_ranges(results: list[dict], group: str, metric: str) -> dict[str, tuple[float, float]]:
    """Returns the range, for each config of a group, in which a further run falls with a probability of 95 %.

    This is the prediction interval of a normal distribution, cut off at the highest possible value. The standard
    deviation is that of all runs of the group around the means of their configs, because each config has few runs. The
    result is empty if a group has fewer than four runs that repeat another one.
    """
    models = GROUPS[group][1]
    values = {config: [row[metric] for row in results if row['config'] == config] for config in models}
    values = {config: runs for config, runs in values.items() if runs}
    freedom = sum(len(runs) - 1 for runs in values.values())
    if freedom < LEAST_FREEDOM:
        return {}
    squares = sum((value - statistics.mean(runs)) ** 2 for runs in values.values() for value in runs)
    deviation = (squares / freedom) ** 0.5
    top = 1 if metric in (BOX_AP, MASK_AP) else 100
    ranges = {}
    for config, runs in values.items():
        margin = student.ppf(0.975, freedom) * deviation * (1 + 1 / len(runs)) ** 0.5
        ranges[config] = statistics.mean(runs) - margin, min(top, statistics.mean(runs) + margin)
    return ranges


def number(value: float, metric: str) -> str:
    return f'{value:.3f}' if metric in (BOX_AP, MASK_AP) else f'{value:.1f}'


def interval(values: tuple[float, float], metric: str) -> str:
    digits, unit = (2, '') if metric in (BOX_AP, MASK_AP) else (1, ' %')
    low, high = (f'{value:.{digits}f}' for value in values)
    return f'{low}{unit}' if low == high else f'{low} to {high}{unit}'


def table(results: list[dict]) -> str:
    """Formats the table of all runs, with one row for each model and metric."""
    lines = [
        '| Model | Metric | Seed 0 / 1 / 2, one thread | Seed 0, two threads | Range | Expected |',
        '| :-- | :-- | :-: | :-: | :-: | :-: |',
    ]
    for group, (metrics, models) in GROUPS.items():
        for metric in metrics:
            expected = expected_ranges(results, group, metric)
            for config, name in models.items():
                runs = sorted((row for row in results if row['config'] == config), key=lambda row: row['seed'])
                by_threads = {
                    n: ' / '.join(number(row[metric], metric) for row in runs if row['threads'] == n) for n in (1, 2)
                }
                values = [row[metric] for row in runs]
                cells = [
                    f'{group}, [{name}](../configs/demo/{config}.py)',
                    TITLES[metric],
                    by_threads[1] or '-',
                    by_threads[2] or '-',
                    interval((min(values), max(values)), metric) if values else '-',
                    interval(expected[config], metric) if config in expected else '-',
                ]
                lines.append(f'| {" | ".join(cells)} |')
    return '\n'.join(lines)


def fill(text: str, results: list[dict]) -> str:
    """Returns the text of a README with its table and its quoted ranges replaced by those of the results.

    The table is between `<!-- demos -->` and `<!-- end of demos -->`. A quote is the expected range between
    `<!-- demo: CONFIG, METRIC -->` and `<!-- / -->`, with the title of the metric. A group
    with too few runs for an expected range quotes the range of its results.
    """

    def quote(found: re.Match) -> str:
        metric = next(key for key, title in TITLES.items() if title == found['metric'])
        group = next(name for name, (_, models) in GROUPS.items() if found['config'] in models)
        values = [row[metric] for row in results if row['config'] == found['config']]
        expected = expected_ranges(results, group, metric).get(found['config'], (min(values), max(values)))
        return f'{found["marker"]}{interval(expected, metric)}<!-- / -->'

    marker = r'(?P<marker><!-- demo: (?P<config>[\w-]+), (?P<metric>[\w ]+) -->)[^<]*<!-- / -->'
    text = re.sub(marker, quote, text)
    rows = f'<!-- demos -->\n\n{table(results)}\n\n<!-- end of demos -->'
    return re.sub(r'<!-- demos -->.*?<!-- end of demos -->', lambda _: rows, text, flags=re.DOTALL)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or '').partition('\n')[0])
    parser.add_argument('--renew', action='store_true', help='forget the stored results first')
    parser.add_argument('--seeds', type=int, nargs='*', default=[0, 1, 2], help='default: 0 1 2')
    parser.add_argument('--configs', nargs='+', choices=CONFIGS, default=CONFIGS, help='default: all')
    options = parser.parse_args()

    results = json.loads(RESULTS.read_text())['results'] if RESULTS.exists() and not options.renew else []
    done = {(row['config'], row['seed'], row['threads']) for row in results}
    for run in planned_runs(options.seeds):
        if run in done or run[0] not in options.configs:
            continue
        results.append(train_and_test(*run))
        print(results[-1], flush=True)
        write_json(RESULTS, machine('cpu'), options, results)
    for readme in READMES:
        readme.write_text(fill(readme.read_text(), results))


if __name__ == '__main__':
    main()
