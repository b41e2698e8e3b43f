"""Collects the predictions of a detector in COCO format, which annotation tools read."""

from collections.abc import Sequence
from typing import Any


class CocoResult:
    """Images, and the objects predicted in them with scores. Masks are run lengths."""

    def __init__(self) -> None:
        self.images: list[dict] = []
        self.annotations: list[dict] = []

    def add(self, file_name: str, sample: Any, score_thr: float) -> None:
        """Adds an image and its objects with at least this score.

        Args:
            file_name: of the image.
            sample: `DetDataSample` of mmdet, with boxes and masks in pixels of the original image.
            score_thr: lowest score.
        """
        from mmdet.structures.mask import encode_mask_results
        from pycocotools.mask import area

        height, width = sample.ori_shape
        self.images.append(dict(id=len(self.images) + 1, file_name=file_name, height=height, width=width))
        found = sample.pred_instances[sample.pred_instances.scores >= score_thr].cpu()
        masks = encode_mask_results(found.masks.numpy()) if 'masks' in found else [None] * len(found)
        for box, score, label, mask in zip(found.bboxes.tolist(), found.scores.tolist(), found.labels.tolist(), masks):
            left, top, right, bottom = box
            annotation: dict[str, Any] = dict(
                id=len(self.annotations) + 1,
                image_id=len(self.images),
                category_id=label + 1,
                bbox=[left, top, right - left, bottom - top],
                area=(right - left) * (bottom - top),
                iscrowd=0,
                score=score,
            )
            if mask is not None:
                annotation['area'] = int(area(mask))
                annotation['segmentation'] = dict(size=mask['size'], counts=mask['counts'].decode())
            self.annotations.append(annotation)

    def content(self, classes: Sequence[str]) -> dict[str, list]:
        """Returns the content of the file. The id of a category is the position of its name in `classes`, from 1."""
        categories = [dict(id=number, name=name) for number, name in enumerate(classes, start=1)]
        return dict(images=self.images, categories=categories, annotations=self.annotations)
