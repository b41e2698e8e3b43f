"""Measures a detector trained on 12, 50 and 200 images: frozen stages, learning rate, length, pre-trained weights.

    python benchmarks/small_data.py data/scenes CHECKPOINT

docs/small_data.md describes the experiment and how to create the scenes and the checkpoint. All trainings run in one
process. Each result is stored at once, and a second call continues with the missing ones. After the last one, the
script prints the tables of the page and draws its figure. With `--report`, it does only this, with the stored results.
"""

import argparse
import json
import re
import statistics
import tempfile
from pathlib import Path
from typing import NamedTuple

import matplotlib

matplotlib.use('agg')
from matplotlib import pyplot as plt
from measure import machine
from mmengine.config import Config

from mmvmamba.engine.patches.checkpoint_loader import install_checkpoint_loader
from mmvmamba.engine.runner import build_runner

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / 'configs/your_data/instances.py'
SIDE = 128  # longer side of a scene, in pixels
POOL = 200  # seed s trains on the first images from number s * POOL on
SIZES = (12, 50, 200)
SEEDS = (0, 1, 2)
LENGTH = 160  # iterations of most trainings
CURVES = dict(pretrained=0, random=-1)  # weights, and `frozen_stages` in the comparison of lengths
FASTER = {  # fewer proposals than in the config: a scene has at most six objects
    'model.train_cfg.rpn_proposal.nms_pre': 500,
    'model.train_cfg.rpn_proposal.max_per_img': 200,
    'model.train_cfg.rcnn.sampler.num': 32,
    'model.test_cfg.rpn.max_per_img': 200,
    'model.test_cfg.rcnn.max_per_img': 20,
}


class Run(NamedTuple):
    """One training. `frozen` is `frozen_stages` of the backbone; -1 freezes nothing."""

    images: int
    weights: str  # 'pretrained' or 'random'
    frozen: int
    lr: float
    iterations: int
    seed: int


def config(run: Run, scenes: Path, checkpoint: Path, work_dir: str) -> Config:
    """Returns the config for users' own instances, with its first lines edited and with the settings of a run."""
    text = CONFIG.read_text()
    classes = [category['name'] for category in json.loads((scenes / 'training.json').read_text())['categories']]
    for name, value in (
        ('_base_', str(CONFIG.parent / '_base_/mask-rcnn_small.py')),
        ('data_root', f'{scenes}/'),
        ('classes', tuple(classes)),
        ('longest, shortest', (SIDE, SIDE)),
        ('iterations', run.iterations),
    ):
        text, count = re.subn(rf'^{name} = .*', f'{name} = {value!r}', text, flags=re.M)
        assert count == 1, name
    cfg = Config.fromstring(text.replace('with_mask=True', 'with_mask=False'), '.py')
    cfg.model.roi_head.update(mask_roi_extractor=None, mask_head=None)
    cfg.test_evaluator.metric = 'bbox'
    first = run.seed * POOL
    cfg.merge_from_dict(
        {
            'work_dir': work_dir,
            'log_level': 'WARNING',
            'randomness.seed': run.seed,
            'model.backbone.frozen_stages': run.frozen,
            'optim_wrapper.optimizer.lr': run.lr,
            'optim_wrapper.optimizer.fused': True,
            'train_dataloader.num_workers': 0,
            'train_dataloader.dataset.indices': list(range(first, first + run.images)),
            'test_dataloader.num_workers': 0,
            'default_hooks.checkpoint': None,
            **FASTER,
        }
    )
    if run.weights == 'pretrained':
        cfg.model.backbone.init_cfg = dict(type='Pretrained', checkpoint=str(checkpoint))
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None  # only tested after the last iteration
    return cfg


def train_and_test(run: Run, scenes: Path, checkpoint: Path, work_dir: str) -> dict:
    """Returns the settings of a training and the average precisions on the validation scenes."""
    runner = build_runner(config(run, scenes, checkpoint, work_dir))
    runner.train()
    metrics = runner.test()
    return dict(run._asdict(), box_ap=metrics['coco/bbox_mAP'], box_ap50=metrics['coco/bbox_mAP_50'])


def planned() -> list[Run]:
    """Returns all trainings, the most informative first."""

    def grid(weights: str, frozen: int, lr: float, seed: int, iterations: int = LENGTH) -> list[Run]:
        return [Run(images, weights, frozen, lr, iterations, seed) for images in SIZES]

    def frozen(lr: float, seed: int) -> list[Run]:
        return [run for stages in (0, 4, 2) for run in grid('pretrained', stages, lr, seed)]

    def lengths(iterations: int) -> list[Run]:
        return [run for weights, stages in CURVES.items() for run in grid(weights, stages, 5e-4, 0, iterations)]

    return [
        *[*frozen(5e-4, 0), *grid('random', -1, 5e-4, 0), *grid('pretrained', 0, 1e-4, 0)],
        *[*frozen(5e-4, 1), *frozen(5e-4, 2), *grid('pretrained', 0, 1e-3, 0)],
        *[*lengths(640), *lengths(320), *grid('random', -1, 5e-4, 1), *grid('random', -1, 5e-4, 2)],
        *[*frozen(1e-4, 0)[3:], *frozen(1e-4, 1), *frozen(1e-4, 2)],
        *[Run(50, 'random', stages, 5e-4, LENGTH, 0) for stages in (2, 4)],
    ]


def cell(results: list[dict], **setting) -> str:
    """Formats the box AP of the trainings with a setting in percent: the mean, and the range over the seeds."""
    found = [100 * each['box_ap'] for each in results if setting.items() <= each.items()]
    if len(found) < 2:
        return f'{found[0]:.1f}' if found else ''
    few = f'; {len(found)} seeds' if len(found) < len(SEEDS) else ''
    return f'{statistics.mean(found):.1f} ({min(found):.1f}-{max(found):.1f}{few})'


def print_tables(results: list[dict]) -> None:
    """Prints Markdown: the box AP for each setting, and for each length of training."""
    print('| Weights | Learning rate | `frozen_stages` |', *(f'{images} images |' for images in SIZES))
    print('| :-- | :-: | :-: |', *(':-: |' for _ in SIZES))
    grid = {(each['weights'], -each['lr'], each['frozen']) for each in results if each['iterations'] == LENGTH}
    for weights, lr, frozen in sorted(grid):
        setting = dict(weights=weights, lr=-lr, frozen=frozen, iterations=LENGTH)
        print(f'| {weights} | {-lr:g} | {frozen} |', *(cell(results, images=n, **setting) + ' |' for n in SIZES))
    lengths = sorted({each['iterations'] for each in results})
    print('\n| Weights | Images |', *(f'{length} iterations |' for length in lengths))
    print('| :-- | :-: |', *(':-: |' for _ in lengths))
    for weights, frozen in CURVES.items():
        for n in SIZES:
            setting = dict(weights=weights, frozen=frozen, lr=5e-4, images=n, seed=0)
            print(f'| {weights} | {n} |', *(cell(results, iterations=length, **setting) + ' |' for length in lengths))


def draw(results: list[dict], file: Path) -> None:
    """Draws the box AP over the length of the training, one curve for each number of images."""
    figure, panels = plt.subplots(1, len(CURVES), figsize=(9, 3.4), sharey=True, layout='constrained')
    for axes, (weights, frozen) in zip(panels, CURVES.items()):
        for images, color in zip(SIZES, ('tab:gray', 'tab:blue', 'tab:red')):
            setting = dict(weights=weights, frozen=frozen, lr=5e-4, images=images, seed=0)
            found = {each['iterations']: 100 * each['box_ap'] for each in results if setting.items() <= each.items()}
            lengths = sorted(found)
            axes.plot(lengths, [found[length] for length in lengths], marker='o', color=color)
            if lengths:
                text = f' {images} images'
                axes.text(lengths[-1] * 1.05, found[lengths[-1]], text, color=color, verticalalignment='center')
        axes.set_xscale('log')
        axes.set_xlim(right=1400)
        axes.set_xticks(ticks := sorted({each['iterations'] for each in results}), ticks)
        axes.minorticks_off()
        axes.set(title=f'{weights} weights', xlabel='iterations of two images', ylim=(0, None))
        axes.grid(alpha=0.3)
    panels[0].set_ylabel('box AP in percent')
    figure.savefig(file, dpi=110)
    print(f'\nFigure written to {file}.')


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or '').partition('\n')[0])
    parser.add_argument('scenes', type=Path, help='output of tools/dataset_converters/fashion_scenes.py')
    parser.add_argument('checkpoint', type=Path, help='pre-trained classifier')
    parser.add_argument('--json', type=Path, default=ROOT / 'benchmarks/results/small_data.json')
    parser.add_argument('--figure', type=Path, default=ROOT / 'docs/small_data.png')
    parser.add_argument('--report', action='store_true', help='train nothing, only print tables and draw the figure')
    options = parser.parse_args()
    install_checkpoint_loader()
    stored: dict = (
        json.loads(options.json.read_text()) if options.json.exists() else dict(machine=machine('cpu'), results=[])
    )
    results = stored['results']
    done = {tuple(each[field] for field in Run._fields) for each in results}
    with tempfile.TemporaryDirectory() as work_dir:  # one for all trainings, because they share MMEngine's visualizer
        for run in [] if options.report else planned():
            if run not in done:
                results.append(train_and_test(run, options.scenes.resolve(), options.checkpoint, work_dir))
                options.json.write_text(json.dumps(stored, indent=1) + '\n')
                print(results[-1], flush=True)
    print_tables(results)
    draw(results, options.figure)


if __name__ == '__main__':
    main()
