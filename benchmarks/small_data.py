"""Measures Mask R-CNN on 12, 50 and 200 images: frozen stages, learning rate, training length, pre-trained weights.

    python benchmarks/small_data.py data/scenes CHECKPOINT

docs/small_data.md describes the experiment and how to create the scenes and the checkpoint. All trainings run in one
process. Each result is added to the JSON file at once, and a second call continues with the missing ones.
"""

import argparse
import json
import re
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

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


def train_and_test(run: Run, scenes: Path, checkpoint: Path) -> dict:
    """Returns the average precisions on the validation scenes, and the seconds that the run took."""
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as work_dir:
        runner = build_runner(config(run, scenes, checkpoint, work_dir))
        runner.train()
        trained = time.perf_counter()
        metrics = runner.test()
    return dict(
        run._asdict(),
        box_ap=metrics['coco/bbox_mAP'],
        box_ap50=metrics['coco/bbox_mAP_50'],
        seconds=round(trained - begin, 1),
        test_seconds=round(time.perf_counter() - trained, 1),
    )


def planned() -> list[Run]:
    """Returns all trainings, the most informative first."""

    def grid(lr: float, seed: int) -> list[Run]:
        return [Run(images, 'pretrained', frozen, lr, LENGTH, seed) for frozen in (0, 4, 2) for images in SIZES]

    def random(lr: float, seed: int, frozen: int = -1, sizes: tuple[int, ...] = SIZES) -> list[Run]:
        return [Run(images, 'random', frozen, lr, LENGTH, seed) for images in sizes]

    def longer(weights: str, frozen: int, iterations: tuple[int, ...]) -> list[Run]:
        return [Run(images, weights, frozen, 5e-4, length, 0) for length in iterations for images in SIZES]

    high = [Run(images, 'pretrained', 0, 1e-3, LENGTH, 0) for images in SIZES]
    return [
        *[*grid(5e-4, 0)[:3], *random(5e-4, 0), *high, *grid(5e-4, 0), *grid(1e-4, 0)],
        *[*random(5e-4, 1), *grid(5e-4, 1), *longer('pretrained', 0, (320, 640))],
        *[*random(5e-4, 2), *grid(5e-4, 2), *longer('random', -1, (320, 640)), *longer('pretrained', 0, (80,))],
        *[*grid(1e-4, 1), *grid(1e-4, 2), *random(5e-4, 0, 2, (50,)), *random(5e-4, 0, 4, (50,)), *random(1e-4, 0)],
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or '').partition('\n')[0])
    parser.add_argument('scenes', type=Path, help='output of tools/dataset_converters/fashion_scenes.py')
    parser.add_argument('checkpoint', type=Path, help='pre-trained classifier')
    parser.add_argument('--json', type=Path, default=ROOT / 'benchmarks/results/small_data.json')
    options = parser.parse_args()
    install_checkpoint_loader()
    stored = json.loads(options.json.read_text()) if options.json.exists() else dict(machine=machine('cpu'), results=[])
    done = {tuple(result[field] for field in Run._fields) for result in stored['results']}
    for run in planned():
        if run not in done:
            done.add(run)
            stored['results'].append(train_and_test(run, options.scenes.resolve(), options.checkpoint))
            options.json.write_text(json.dumps(stored, indent=1) + '\n')
            print(stored['results'][-1], flush=True)


if __name__ == '__main__':
    main()
