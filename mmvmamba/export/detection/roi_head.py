"""Predictions of mmdet's RoI heads, which classify and refine the boxes of an RPN: Faster, Mask and Cascade R-CNN."""

from collections.abc import Sequence
from typing import Any

import torch
import torchvision  # noqa: F401  (defines the operator)
from torch import Tensor

from .support import stages
from .suppression import suppress


def predict_boxes(
    head: Any, maps: Sequence[Tensor], boxes: Tensor, shape: Sequence[int], scale: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns boxes (N, 4), scores (N,) and labels (N,) in descending order of the scores.

    The last row is to be ignored, here and in the proposals, see `suppress`.

    Args:
        head: a RoI head of mmdet.
        maps: the feature maps (1, C, H, W) of all levels.
        boxes: (P, 4), the proposals.
        shape: (H, W) of the image, to which the boxes are clipped.
        scale: (4,), factors of the boxes.
    """
    logits = torch.zeros(())
    parts = list(zip(stages(head.bbox_roi_extractor), stages(head.bbox_head)))
    for i, (extractor, box_head) in enumerate(parts):
        scores, deltas = box_head(_roi_features(extractor, maps, boxes))
        logits = logits + scores
        if i + 1 < len(parts):
            label = scores[:, :-1].argmax(1)
            boxes = box_head.regress_by_class(boxes, label, deltas, dict(img_shape=shape))
    scores = (logits / len(parts)).softmax(1)[:, :-1]
    count, classes = scores.shape
    boxes = boxes.repeat_interleave(deltas.shape[1] // 4, 0)
    boxes = box_head.bbox_coder.decode(boxes, deltas.reshape(-1, 4), max_shape=shape) * scale
    boxes = boxes.reshape(count, -1, 4).expand(count, classes, 4)
    labels = torch.arange(classes, device=scores.device).expand(count, classes)
    is_proposal = torch.arange(count, device=scores.device)[:, None] < count - 1
    valid = (scores > head.test_cfg.score_thr) & is_proposal
    boxes, scores, labels = boxes.reshape(-1, 4), scores.reshape(-1), labels.reshape(-1)
    keep = suppress(boxes, scores, labels, valid.reshape(-1), head.test_cfg.nms, head.test_cfg.max_per_img)
    return boxes[keep], scores[keep], labels[keep]


def predict_masks(head: Any, maps: Sequence[Tensor], boxes: Tensor, labels: Tensor) -> Tensor:
    """Returns the probability of each pixel of the boxes (N, 4), N > 0, to belong to the object: (N, h, w)."""
    parts = zip(stages(head.mask_roi_extractor), stages(head.mask_head))
    masks = [mask_head(_roi_features(extractor, maps, boxes)).sigmoid() for extractor, mask_head in parts]
    mean = torch.stack(masks).mean(0)
    return (
        mean[:, 0]
        if mean.shape[1] == 1
        else mean.gather(1, labels[:, None, None, None].expand(-1, 1, *mean.shape[2:]))[:, 0]
    )


def _roi_features(extractor: Any, maps: Sequence[Tensor], boxes: Tensor) -> Tensor:
    """The feature maps inside of boxes (N, 4), each one from the level of its size: (N, C, h, w)."""
    rois = torch.cat([boxes.new_zeros(boxes.shape[0], 1), boxes], 1)  # the index of the image comes first
    layers = extractor.roi_layers
    levels = extractor.map_roi_levels(rois, len(layers))
    features = [_align(layer, maps[i], rois[(levels == i).nonzero()[:, 0]]) for i, layer in enumerate(layers)]
    index = torch.arange(levels.shape[0], device=levels.device)
    order = (levels * levels.shape[0] + index).argsort()  # of the features
    return torch.cat(features)[order.argsort()]


def _align(layer: Any, features: Tensor, rois: Tensor) -> Tensor:
    scale, ratio = layer.spatial_scale, max(layer.sampling_ratio, 0)
    return torch.ops.torchvision.roi_align(features, rois, scale, *layer.output_size, ratio, layer.aligned)
