"""Boxes given as corners are rejected; boxes outside of their image, and objects that mmdet ignores, are logged."""

import json

import pytest

from mmvmamba.engine.checks.boxes import box_warnings, boxes_of, corner_fault
from mmvmamba.engine.checks.coco_files import read_coco
from mmvmamba.engine.checks.reporting import warnings_to
from mmvmamba.engine.errors import DataError

WIDTH, HEIGHT = 200, 100


def content(*boxes, polygons=False):
    """A file with these boxes, x, y, w, h; the polygons are those of the boxes."""
    annotations = []
    for number, (x, y, w, h) in enumerate(boxes, start=1):
        annotation = dict(id=number, image_id=1, category_id=1, bbox=[x, y, w, h], area=max(w * h, 1))
        if polygons:
            annotation['segmentation'] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
        annotations.append(annotation)
    image = dict(id=1, file_name='a.jpg', width=WIDTH, height=HEIGHT)
    return dict(images=[image], annotations=annotations, categories=[dict(id=1, name='coin')])


def as_corners(found):
    for annotation in found['annotations']:
        x, y, w, h = annotation['bbox']
        annotation['bbox'] = [x, y, x + w, y + h]
    return found


BOXES = [(10, 10, 30, 30), (120, 40, 40, 50), (150, 60, 45, 38), (60, 5, 20, 20)]
TOP_LEFT = [(5, 5, 30, 30), (20, 10, 40, 30)]


@pytest.mark.parametrize('polygons', [False, True], ids=['boxes', 'polygons'])
def test_corners_are_recognised(polygons):
    assert corner_fault(boxes_of(content(*BOXES, polygons=polygons))) is None
    fault = corner_fault(boxes_of(as_corners(content(*BOXES, polygons=polygons))))
    assert 'in an image of 200 x 100 pixels: it is x1, y1, x2, y2, but bbox must be x, y, width and height' in fault


def test_polygons_show_corners_of_objects_that_stay_inside_the_image():
    assert corner_fault(boxes_of(as_corners(content(*TOP_LEFT, polygons=True))))
    assert corner_fault(boxes_of(as_corners(content(*TOP_LEFT)))) is None  # both readings are possible


def test_boxes_slightly_outside_of_the_image_are_not_corners():
    """Annotators draw objects of the size of the image too large."""
    assert corner_fault(boxes_of(content((1, 1, WIDTH, HEIGHT), (0, 0, WIDTH + 5, HEIGHT)))) is None


def test_polygons_that_fit_to_both_readings_decide_nothing():
    assert corner_fault(boxes_of(content((0, 0, WIDTH, HEIGHT), polygons=True))) is None


def test_other_boxes_far_outside_are_not_corners():
    """The second box would end left of its start."""
    assert corner_fault(boxes_of(content((150, 50, 190, 90), (150, 10, 30, 30)))) is None


def test_unusual_boxes_give_warnings():
    assert list(box_warnings(boxes_of(content(*BOXES)))) == []
    outside, empty = box_warnings(boxes_of(content(*BOXES, (190, 10, 30, 30), (-5, 0, 20, 20), (10, 10, 0, 5))))
    assert outside == (
        '2 of 7 boxes exceed their image, for example that of annotation 5: [190, 10, 30, 30] (x, y, width, height) in '
        '200 x 100 pixels'
    )
    assert empty.startswith('mmdet ignores 1 of 7 objects') and 'annotation 7 with the bbox [10, 10, 0, 5]' in empty


def test_reading_a_file_checks_its_boxes(tmp_path):
    file, warnings = tmp_path / 'a.json', []
    file.write_text(json.dumps(content(*BOXES, (190, 10, 30, 30))))
    with warnings_to(warnings.append):
        read_coco(file)
    assert len(warnings) == 1 and warnings[0].startswith(f'{file}: 1 of 5 boxes exceed their image')
    file.write_text(json.dumps(as_corners(content(*BOXES))))
    with pytest.raises(DataError, match=r'a\.json: annotation 2 has the bbox .* it is x1, y1, x2, y2'):
        read_coco(file)


def test_files_without_boxes_are_not_checked():
    assert boxes_of(dict(images=[], annotations=[dict(id=1, image_id=1, caption='a coin')])) == []
    panoptic = dict(content(), annotations=[dict(id=1, image_id=1, segments_info=[])])
    assert corner_fault(boxes_of(panoptic)) is None
