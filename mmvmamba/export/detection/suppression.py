"""Non-maximum suppression as mmcv's `batched_nms`, with operators that can be exported."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor


def is_supported_nms(nms: Mapping[str, Any] | None) -> bool:
    """Whether `suppress` implements a setting `nms` of a test_cfg."""
    names = {'type', 'iou_threshold', 'iou_thr', 'class_agnostic', 'split_thr'}
    return nms is not None and nms.get('type', 'nms') == 'nms' and set(nms) <= names


def suppress(
    boxes: Tensor, scores: Tensor, groups: Tensor, valid: Tensor, nms: Mapping[str, Any], limit: int
) -> Tensor:
    """Returns the indices of the boxes to keep, at most `limit`, in descending order of the scores, and one more index.

    The last index is to be ignored. With it, no tensor of a later layer is empty, which not all layers support.

    Args:
        boxes: (N, 4), N > 0.
        scores: (N,).
        groups: (N,), the label of each box, or its level. Boxes suppress only boxes of the same group.
        valid: (N,), bool: boxes to consider.
        nms: setting of mmdet, with the threshold of the intersection over union.
        limit: maximum number of boxes, or 0 for all.
    """
    candidates = valid.nonzero()[:, 0]
    if nms.get('class_agnostic', False):
        groups = torch.zeros_like(groups)
    # One suppression for all groups: they are moved apart. The same additions as in mmcv result in the same rounding.
    largest = boxes.masked_fill(~valid[:, None], -torch.inf).max()
    apart = boxes[candidates] + (groups[candidates].to(boxes.dtype) * (largest + 1))[:, None]
    # Two boxes without area, which are always kept: torch.export assumes that at least two are.
    apart, candidates = F.pad(apart, (0, 0, 0, 2)), F.pad(candidates, (0, 2))
    padded = F.pad(scores[candidates[:-2]], (0, 2), value=-1)
    threshold = nms.get('iou_threshold', nms.get('iou_thr'))
    keep = candidates[torchvision.ops.nms(apart, padded, float(threshold))][:-2]
    if limit > 0:
        keep = keep[:limit]
    return F.pad(keep, (0, 1))
