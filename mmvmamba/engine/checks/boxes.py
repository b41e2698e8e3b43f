"""Checks the boxes of a COCO annotation file against the images and the masks."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from .quoting import quoted

# A box may exceed its image by a pixel, since annotation tools round.
ROUNDING = 1.0
# Boxes given as corners exceed the image by far: x1 + x2 is more than this multiple of the width.
FAR = 1.05
# The share of boxes from which they are taken for corners.
SHARE = 0.1


class Box(NamedTuple):
    annotation: dict
    width: int  # of the image
    height: int

    @property
    def values(self) -> list[float]:
        return self.annotation['bbox']

    def exceeds(self, factor: float = 1.0, margin: float = 0.0) -> bool:
        x, y, w, h = self.values
        right, bottom = factor * self.width + margin, factor * self.height + margin
        return x + w > right or y + h > bottom or x < -margin or y < -margin

    def could_be_corners(self) -> bool:
        x1, y1, x2, y2 = self.values
        return -ROUNDING <= x1 < x2 <= self.width + ROUNDING and -ROUNDING <= y1 < y2 <= self.height + ROUNDING

    def are_corners_of_polygons(self) -> bool | None:
        """Returns None if the object has no polygons, or if its box fits to neither reading."""
        polygons = self.annotation.get('segmentation')
        if not isinstance(polygons, list) or not any(polygons):
            return None
        xs = [x for polygon in polygons for x in polygon[::2]]
        ys = [y for polygon in polygons for y in polygon[1::2]]
        corners = min(xs), min(ys), max(xs), max(ys)
        x, y, w, h = self.values
        slack = 2 + 0.02 * max(self.width, self.height)
        as_corners, as_size = (
            all(abs(a - b) <= slack for a, b in zip(box, corners)) for box in (self.values, (x, y, x + w, y + h))
        )
        return None if as_corners == as_size else as_corners


def boxes_of(content: Mapping) -> list[Box]:
    """Returns the boxes of a checked annotation file whose image is in the file."""
    sizes = {image['id']: (image['width'], image['height']) for image in content.get('images', ())}
    annotations = (each for each in content.get('annotations', ()) if 'bbox' in each)
    return [Box(each, *sizes[each['image_id']]) for each in annotations if each['image_id'] in sizes]


def corner_fault(boxes: list[Box]) -> str | None:
    """Returns a sentence if the boxes of a file are x1, y1, x2, y2, else None.

    Either the polygons of most objects show it, or all boxes would fit as corners and many exceed their image by far.
    """
    answers = [(box, box.are_corners_of_polygons()) for box in boxes[:: len(boxes) // 1000 + 1]]
    answers = [(box, answer) for box, answer in answers if answer is not None]
    wrong = [box for box, answer in answers if answer]
    if not answers and all(box.could_be_corners() for box in boxes):
        wrong = [box for box in boxes if box.exceeds(FAR)]
        found = len(wrong) >= max(1, SHARE * len(boxes))
    else:
        found = len(wrong) > len(answers) / 2
    if not found:
        return None
    annotation, width, height = wrong[0]
    return (
        f'annotation {quoted(annotation["id"])} has the bbox {quoted(annotation["bbox"])} in an image of {width} x '
        f'{height} pixels: it is x1, y1, x2, y2, but bbox must be x, y, width and height'
    )


def box_warnings(boxes: list[Box]) -> Iterator[str]:
    """Yields a sentence for boxes that exceed their image, and for those that mmdet ignores."""
    outside = [box for box in boxes if box.exceeds(margin=ROUNDING)]
    if outside:
        annotation, width, height = outside[0]
        yield (
            f'{len(outside)} of {len(boxes)} boxes exceed their image, for example that of annotation '
            f'{quoted(annotation["id"])}: {quoted(annotation["bbox"])} (x, y, width, height) in {width} x {height} '
            'pixels'
        )
    empty = [box.annotation for box in boxes if min(box.values[2:]) < 1 or box.annotation.get('area', 1) <= 0]
    if empty:
        yield (
            f'mmdet ignores {len(empty)} of {len(boxes)} objects, since their width, height or area is less than 1, '
            f'for example annotation {quoted(empty[0]["id"])} with the bbox {quoted(empty[0]["bbox"])}'
        )
