"""A detector of mmdet as a module from an image to boxes, scores, labels and masks, which can be exported."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmdet.models.dense_heads import RTMDetInsHead
from torch import Tensor, nn

from .dense_head import predict_dense
from .masks import dynamic_masks, paste
from .roi_head import predict_boxes, predict_masks
from .support import check_supported


class WholeDetector(nn.Module):
    """Predicts the objects of an image as mmdet does, with the thresholds of the model's `test_cfg`.

    Raises:
        UnsupportedDetector: a head, or a setting of the `test_cfg`, cannot be exported.
    """

    def __init__(self, model: Any):
        super().__init__()
        check_supported(model)
        self.model: Any = model
        self.has_rois = hasattr(model, 'roi_head')
        self.has_masks = model.roi_head.with_mask if self.has_rois else isinstance(model.bbox_head, RTMDetInsHead)
        self.outputs = ('boxes', 'scores', 'labels', 'masks') if self.has_masks else ('boxes', 'scores', 'labels')

    def forward(self, images: Tensor, size: Tensor, resized: Sequence[int], shape: Sequence[int]) -> tuple[Tensor, ...]:
        """Returns N objects in descending order of their scores.

        Args:
            images: (1, 3, H, W), normalised and padded on the right and at the bottom.
            size: (2,), int64: height and width of the original image.
            resized: height and width of the image after resizing.
            shape: height and width of the image that is clipped to: `resized`, or with padding.

        Returns:
            boxes (N, 4): x1, y1, x2, y2 in pixels of the original image; scores (N,); labels (N,), int64; and masks
            (N, height, width), bool, of the original image, if the model predicts masks.
        """
        original = size.flip(0).repeat(2)
        scale = original / torch.stack([torch.full_like(size[0], n) for n in (resized[1], resized[0])]).repeat(2)
        maps = self.model.extract_feat(images)
        if self.has_rois:
            found = self._predict_rois(maps, shape, scale, size)
        else:
            found = self._predict_dense(maps, resized, shape, scale, size)
        return tuple(output[:-1] for output in found)  # without the spare row, see `suppress`

    def _predict_rois(self, maps, shape, scale, size) -> tuple[Tensor, ...]:
        rpn, head = self.model.rpn_head, self.model.roi_head
        proposals = predict_dense(rpn, rpn(maps), shape, torch.ones_like(scale)).boxes
        if not self.has_masks:
            return predict_boxes(head, maps, proposals, shape, scale)
        boxes, scores, labels = predict_boxes(head, maps, proposals, shape, torch.ones_like(scale))
        masks = predict_masks(head, maps, boxes, labels)
        boxes = boxes * scale
        height, width = size.tolist()
        return boxes, scores, labels, paste(masks, boxes, height, width) >= head.test_cfg.mask_thr_binary

    def _predict_dense(self, maps, resized, shape, scale, size) -> tuple[Tensor, ...]:
        head = self.model.bbox_head
        outputs = head(maps)
        if not self.has_masks:
            return predict_dense(head, outputs, shape, scale)[:3]
        *outputs, features = outputs
        found = predict_dense(head, outputs, shape, scale)
        masks = dynamic_masks(head, features, found.others, found.priors)
        height, width = size.tolist()
        # The masks cover the padded input. Its size in pixels of the original image is rounded up, with a division of
        # positive integers: that of ONNX does not round negative ones down.
        sizes = [(n * original + new - 1) // new for n, original, new in zip(masks.shape[2:], (height, width), resized)]
        masks = F.interpolate(masks, sizes, mode='bilinear')[0, :, :height, :width]
        return *found[:3], masks.sigmoid() > head.test_cfg.mask_thr_binary
