"""Predictions of mmdet's dense heads, which predict objects at every position of several feature maps."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from mmdet.models.dense_heads import GFLHead, RPNHead, RTMDetInsHead
from torch import Tensor

from .suppression import suppress


class Predictions(NamedTuple):
    """Predictions of a single image."""

    boxes: Tensor  # (N, 4): x1, y1, x2, y2
    scores: Tensor  # (N,)
    labels: Tensor  # (N,)
    priors: Tensor  # (N, 2 or 4): the points or anchors that predicted the objects
    others: Tensor  # (N, C): further predictions at the same positions: factors of the scores, or kernels for masks


def predict_dense(head: Any, maps: Sequence[Sequence[Tensor]], shape: Sequence[int], scale: Tensor) -> Predictions:
    """Decodes the outputs of a head, and returns the objects in descending order of their scores.

    The last row is to be ignored, see `suppress`.

    Args:
        head: a head of mmdet.
        maps: scores, boxes and further predictions of each level: lists of maps (1, C, H, W).
        shape: (H, W) of the image, to which the boxes are clipped.
        scale: (4,), factors of the boxes.
    """
    cfg = head.test_cfg
    device, sizes = maps[0][0].device, [scores.shape[-2:] for scores in maps[0]]
    stride = dict(with_stride=True) if isinstance(head, RTMDetInsHead) else {}
    priors = head.prior_generator.grid_priors(sizes, device=device, **stride)
    levels = [_best(head, level, *inputs, shape) for level, inputs in enumerate(zip(priors, zip(*maps)))]
    found = Predictions(*map(torch.cat, zip(*levels)))
    boxes, scores = found.boxes * scale, found.scores
    valid = scores > cfg.get('score_thr', -1 if isinstance(head, RPNHead) else 0)
    if len(maps) == 3 and not isinstance(head, RTMDetInsHead):
        scores = scores * found.others[:, 0].sigmoid()
    smallest = cfg.get('min_bbox_size', -1)
    if smallest >= 0:
        valid = valid & (boxes[:, 2:] - boxes[:, :2] > smallest).all(1)
    keep = suppress(boxes, scores, found.labels, valid, cfg.nms, cfg.max_per_img)
    return Predictions(boxes[keep], scores[keep], *(t[keep] for t in found[2:]))


def _best(head: Any, level: int, priors: Tensor, maps: Sequence[Tensor], shape: Sequence[int]) -> Predictions:
    """Returns the `nms_pre` predictions of one level with the highest scores."""
    anchors = maps[0].shape[1] // head.cls_out_channels  # per position
    scores, deltas, *others = (t[0].permute(1, 2, 0).reshape(-1, t.shape[1] // anchors) for t in maps)
    scores = _activate(head, scores)
    classes, count, limit = scores.shape[1], scores.numel(), head.test_cfg.get('nms_pre', -1)
    best: Any = torch.sym_min(limit, count) if limit > 0 else count
    # Sorted as in mmdet, because `topk` returns equal scores, which constant areas have, in another order.
    scores, index = (t[:best] for t in scores.flatten().sort(descending=True))
    row, label = index // classes, index % classes
    priors, deltas = priors[row], deltas[row]
    if isinstance(head, RPNHead):
        label = torch.full_like(label, level)  # boxes of different levels do not suppress each other
    if isinstance(head, GFLHead):
        # head.integral, whose conversion of a buffer to its own type the ONNX exporter rejects
        bins = deltas.reshape(-1, 4, head.reg_max + 1).softmax(-1)
        project: Any = head.integral.project
        deltas = bins @ project * head.prior_generator.strides[level][0]
        points = head.anchor_center(priors)
    else:
        points = priors[:, :2] if isinstance(head, RTMDetInsHead) else priors
    boxes = head.bbox_coder.decode(points, deltas, max_shape=shape)
    rest = others[0][row] if others else deltas[:, :0]
    return Predictions(boxes, scores, label, priors, rest)


def _activate(head: Any, scores: Tensor) -> Tensor:
    if getattr(head.loss_cls, 'custom_cls_channels', False):
        return head.loss_cls.get_activation(scores)
    return scores.sigmoid() if head.use_sigmoid_cls else scores.softmax(-1)[:, :-1]
