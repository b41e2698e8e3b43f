"""Comparison of an exported detector with `mmdet.apis.inference_detector`."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmcv.transforms import Compose
from mmdet.apis import inference_detector
from mmdet.utils import get_test_pipeline_cfg
from mmengine.config import Config
from mmengine.registry import DefaultScope
from scipy.optimize import linear_sum_assignment
from torch import Tensor


class Reference:
    """mmdet's prediction for an image, and the inputs of the exported detector for the same image.

    Args:
        model: a detector of mmdet.
        cfg: its config.
        resize: whether to resize images as the test pipeline of the config does.
    """

    def __init__(self, model: Any, cfg: Config, resize: bool = True):
        self.model = model
        model.cfg = cfg
        steps: Any = get_test_pipeline_cfg(cfg.copy())  # pyright: ignore[reportArgumentType]  (it accepts a Config)
        if not resize:
            unchanged = dict(type='Resize', scale_factor=1.0, keep_ratio=True)
            steps = [unchanged if _is_resizing(step) else step for step in steps]
        steps = [dict(type='LoadImageFromNDArray'), *steps[1:]]
        with DefaultScope.overwrite_default_scope('mmdet'):
            self.pipeline = Compose(steps)
            self.resizing = Compose([steps[0], *filter(_is_resizing, steps)])

    def inputs(self, image: np.ndarray) -> tuple[Tensor, Tensor]:
        """The arguments `images` and `size` for a BGR image (height, width, 3), uint8."""
        resized: Any = self.resizing(dict(img=image))
        images = torch.from_numpy(np.ascontiguousarray(resized['img'][:, :, ::-1])).permute(2, 0, 1)[None].float()
        return images, torch.tensor(image.shape[:2])

    def predict(self, image: np.ndarray) -> tuple[Tensor, ...]:
        """Boxes, scores, labels and masks of mmdet for the same image."""
        with DefaultScope.overwrite_default_scope('mmdet'):
            found: Any = inference_detector(self.model, image, self.pipeline)
        objects = found.pred_instances
        names = ('bboxes', 'scores', 'labels', 'masks')
        return tuple(objects[name] for name in names if name in objects)


def _is_resizing(step: dict) -> bool:
    return 'Resize' in str(step['type'])


def difference(expected: Sequence[Tensor], found: Sequence[Tensor]) -> dict[str, float]:
    """Compares two predictions, each of which consists of boxes, scores, labels and, possibly, masks.

    The objects of `found` are matched to those of `expected` first: if scores are equal up to rounding, their order is
    arbitrary.

    Returns:
        objects and found_objects, the numbers of objects. If they are equal, also boxes and scores, the largest
        differences; labels, the share of other labels; and masks, the share of other pixels.
    """
    result: dict[str, float] = dict(objects=len(expected[0]), found_objects=len(found[0]))
    if result['objects'] != result['found_objects'] or not len(expected[0]):
        return result
    boxes, scores, labels = expected[:3]
    cost = (boxes[:, None] - found[0]).abs().amax(2) + 1e3 * (scores[:, None] - found[1]).abs()
    rows, columns = linear_sum_assignment(cost + 1e6 * (labels[:, None] != found[2]))
    for name, a, b in zip(('boxes', 'scores', 'labels', 'masks'), expected, found):
        a, b = a[rows], b[columns]
        is_class = name in ('labels', 'masks')
        result[name] = (a != b).double().mean().item() if is_class else (a - b).abs().max().item()
    return result


def in_words(difference: dict[str, float]) -> str:
    """Describes the result of `difference`."""
    objects, found = difference['objects'], difference['found_objects']
    if objects != found:
        return f'{objects} objects, but {found} in the file'
    if not objects:
        return 'no objects'
    parts = [f'{objects} objects, boxes within {difference["boxes"]:.1e} pixels']
    parts += [f'scores within {difference["scores"]:.1e}', f'{1 - difference["labels"]:.2%} of the labels']
    if 'masks' in difference:
        parts += [f'{1 - difference["masks"]:.4%} of the mask pixels']
    return ', '.join(parts[:-1]) + f' and {parts[-1]} equal'
