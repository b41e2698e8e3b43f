"""Pictures of a test: annotation and prediction with titles, in the same layout for every task."""

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mmcv
import numpy as np
import torch
from mmengine.config import Config
from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.registry import HOOKS, VISUALIZERS
from mmengine.runner import Runner
from mmengine.visualization import Visualizer

from ..errors import LaunchError
from ..inference import displayable, image_loader
from ..panels import arranged, titled

ANNOTATIONS = ('gt_instances', 'gt_sem_seg', 'gt_panoptic_seg', 'gt_depth_map')
MAPS = ('pred_sem_seg', 'pred_panoptic_seg', 'pred_depth_map')
OPACITY = 0.4  # of masks, so that the objects below them are visible


@HOOKS.register_module()
class PictureHook(Hook):
    """Writes `NAME.png` for each test image, with the annotation next to the prediction.

    `NAME` is the path of the image relative to the common folder of all test images. If two images of a folder differ
    only in their suffixes, their pictures keep it: `NAME.jpg.png`. The pictures of a classifier are the images, with
    both labels as titles. Small images are enlarged. At the end, the numbers of pictures and of objects are logged.

    Args:
        out_dir: folder of the pictures.
        score_thr: lowest score of an object that is drawn and counted.
    """

    def __init__(self, out_dir: str, score_thr: float = 0.3):
        self.out_dir, self.score_thr = Path(out_dir), score_thr

    def before_test_epoch(self, runner: Runner) -> None:
        self._counts = Counter()
        dataset: Any = runner.test_dataloader.dataset
        self._names = _names(dataset)
        self._classes = (getattr(dataset, 'metainfo', None) or {}).get('classes')
        self._visualizer = self._read = None

    def after_test_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        for index, sample in enumerate(outputs):
            path = sample.get('img_path')
            if path is None:  # such as CIFAR: all images are in one file
                name = f'{sample.get("sample_idx", self._counts["pictures"]):06}.png'
                image = data_batch['inputs'][index].permute(1, 2, 0).byte().cpu().numpy()
            else:
                name = self._names.get(path, f'{Path(path).stem}.png')
                self._read = self._read or _reader(runner.cfg)
                image = displayable(self._read(path))
            mmcv.imwrite(self._draw(runner, image, sample), str(self.out_dir / name))
            self._counts['pictures'] += 1

    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        counts = torch.tensor([self._counts[key] for key in ('pictures', 'objects', 'detections')])
        all_reduce(counts)
        pictures, objects, detections = counts.tolist()
        found = f': {_counted(objects, "object")} with a score of at least {self.score_thr}' if detections else ''
        runner.logger.info(f'{_counted(pictures, "picture")} written to {self.out_dir}{found}.')
        if detections and not objects:
            runner.logger.info(
                'To draw objects with lower scores, set default_hooks.visualization.score_thr. After a short training, '
                'all scores are low.'
            )

    def _draw(self, runner: Runner, image: np.ndarray, sample: Any) -> np.ndarray:
        """Returns the picture, (height, width, 3), uint8, BGR."""
        if 'pred_score' in sample:
            return self._draw_classes(image, sample)
        title = 'prediction'
        if 'pred_instances' in sample:
            count = int((sample.pred_instances.scores >= self.score_thr).sum())
            self._counts.update(objects=count, detections=1)
            title += f': {_counted(count, "object")} with a score of at least {self.score_thr}'
        elif not any(key in sample for key in MAPS):
            raise LaunchError(
                f'--show-dir draws objects, masks and classes, but this model predicts {", ".join(sample.keys())}'
            )
        panels = [titled(self._panel(runner, image, sample, draw_gt=False), [title])]
        if any(key in sample for key in ANNOTATIONS):
            panels.insert(0, titled(self._panel(runner, image, sample, draw_gt=True), ['annotation']))
        return arranged(panels)

    def _panel(self, runner: Runner, image: np.ndarray, sample: Any, draw_gt: bool) -> np.ndarray:
        if self._visualizer is None:
            self._visualizer = _visualizer(runner, str(self.out_dir))
        options = dict(pred_score_thr=self.score_thr) if runner.cfg.default_scope == 'mmdet' else {}
        self._visualizer.add_datasample('', image[..., ::-1], sample, draw_gt=draw_gt, draw_pred=not draw_gt, **options)
        return np.ascontiguousarray(self._visualizer.get_image()[..., ::-1])

    def _draw_classes(self, image: np.ndarray, sample: Any) -> np.ndarray:
        predicted = (
            sample.pred_label.flatten().tolist() if 'pred_label' in sample else [int(sample.pred_score.argmax())]
        )
        lines = [f'prediction: {self._name_labels(predicted, sample.pred_score)}']
        is_right = True
        if 'gt_label' in sample:
            true = sample.gt_label.flatten().tolist()
            lines.insert(0, f'annotation: {self._name_labels(true)}')
            is_right = sorted(true) == sorted(predicted)
        return titled(image, lines, alarm=not is_right)

    def _name_labels(self, labels: list[int], scores: torch.Tensor | None = None) -> str:
        names = [str(self._classes[label]) if self._classes else str(label) for label in labels]
        if scores is not None:
            names = [f'{name} ({scores[label]:.2f})' for name, label in zip(names, labels)]
        return ', '.join(names) or 'none'


def _counted(number: int, noun: str) -> str:
    return f'{number} {noun}{"s" * (number != 1)}'


def _reader(cfg: Config) -> Callable[[str], np.ndarray]:
    try:
        return image_loader(cfg)
    except LaunchError:  # the pipeline loads images in another way: read the file as the hooks of the libraries do
        return mmcv.imread


def _visualizer(runner: Runner, name: str) -> Visualizer:
    """Returns a visualizer like that of the config, but one that only draws."""
    visualizer = VISUALIZERS.build({**runner.cfg.visualizer, 'name': name, 'vis_backends': None, 'alpha': OPACITY})
    visualizer.dataset_meta = runner.visualizer.dataset_meta
    return visualizer


def _names(dataset: Any) -> dict[str, str]:
    """Returns the name of the picture of each image in a dataset of MMEngine."""
    if not hasattr(dataset, 'get_data_info'):
        return {}
    infos = (dataset.get_data_info(index) for index in range(len(dataset)))
    paths = list(dict.fromkeys(info['img_path'] for info in infos if 'img_path' in info))
    if not paths:
        return {}
    folder = os.path.commonpath([os.path.dirname(path) for path in paths])
    names = {path: os.path.relpath(path, folder) for path in paths}
    uses = Counter(os.path.splitext(name)[0] for name in names.values())
    return {
        path: f'{name if uses[os.path.splitext(name)[0]] > 1 else os.path.splitext(name)[0]}.png'
        for path, name in names.items()
    }
