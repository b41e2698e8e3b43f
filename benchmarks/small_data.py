"""Measures Mask R-CNN on 12, 50 and 200 images: frozen stages, learning rate, training length, pre-trained weights.

    python benchmarks/small_data.py data/scenes CHECKPOINT

docs/small_data.md describes the experiment and how to create the scenes and the checkpoint. All trainings run in one
process. Each result is added to the JSON file at once, and a second call continues with the missing ones.
"""

import json
import re
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import matplotlib

matplotlib.use('agg')
from mmengine.config import Config

from mmvmamba.engine.runner import build_runner

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / 'configs/your_data/instances.py'
SIDE = 160  # longer side of a scene, in pixels
BATCH_SIZE = 4
POOL = 200  # seed s trains on the first images from number s * POOL on
SIZES = (12, 50, 200)
SEEDS = (0, 1, 2)


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
    cfg = Config.fromstring(text, '.py')
    first = run.seed * POOL
    pretrained = dict(type='Pretrained', checkpoint=str(checkpoint))
    cfg.merge_from_dict(
        {
            'work_dir': work_dir,
            'log_level': 'WARNING',
            'randomness.seed': run.seed,
            'model.backbone.frozen_stages': run.frozen,
            'model.backbone.init_cfg': pretrained if run.weights == 'pretrained' else None,
            'optim_wrapper.optimizer.lr': run.lr,
            'train_dataloader.batch_size': BATCH_SIZE,
            'train_dataloader.num_workers': 0,
            'train_dataloader.dataset.indices': list(range(first, first + run.images)),
            'test_dataloader.num_workers': 0,
            'default_hooks.checkpoint': None,
        }
    )
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
        mask_ap=metrics['coco/segm_mAP'],
        seconds=round(trained - begin, 1),
        test_seconds=round(time.perf_counter() - trained, 1),
    )
