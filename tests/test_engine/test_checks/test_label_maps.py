"""The values of all masks together: 0 and 255, ignored pixels only, a single class."""

from types import SimpleNamespace

import numpy as np
import pytest

from mmvmamba.engine.checks.label_maps import MapValues, map_fault, map_warnings, spread


def dataset(*classes, ignore_index=255, reduce_zero_label=False):
    metainfo = dict(classes=classes)
    return SimpleNamespace(metainfo=metainfo, ignore_index=ignore_index, reduce_zero_label=reduce_zero_label)


def maps(*values):
    return [
        MapValues.of(dict(gt_seg_map=np.array(each, np.uint8), seg_map_path=f'{index}.png'))
        for index, each in enumerate(values)
    ]


def test_values_0_and_255_are_rejected():
    fault = map_fault(maps([0, 255], [0, 0]), dataset('ground', 'coin'))
    assert fault == (
        '0.png and 1 other masks have only the values 0 and 255, but 255 is ignored and the classes ground, coin are 0 '
        'to 1: convert them with tools/dataset_converters/mask_values.py --values 0 255'
    )


@pytest.mark.parametrize(
    'values, data',
    [
        (([0, 255], [1, 1]), dataset('ground', 'coin')),
        (([0, 255],), dataset('coin')),  # ignored pixels around the only class
        (([0, 255],), dataset('ground', 'coin', ignore_index=7)),  # unknown classes are reported elsewhere
        (([0, 255],), dataset('ground', 'coin', reduce_zero_label=True)),
        ((), dataset('ground', 'coin')),
    ],
)
def test_other_masks_are_accepted(values, data):
    assert map_fault(maps(*values), data) is None


def test_a_dataset_without_labelled_pixels_is_rejected():
    assert map_fault(maps([255], [255, 255]), dataset('a', 'b')).startswith(
        '0.png and 1 other masks have no labelled pixel: all pixels have the value 255, which is ignored'
    )


def test_single_masks_without_labels_and_a_single_class_give_warnings():
    found = list(map_warnings(maps([255], [1, 1, 255], [1]), dataset('a', 'b')))
    assert found == [
        '0.png has no labelled pixel: all have the value 255, which is ignored',
        '0.png and 2 other masks have the single class 1 (b), but the dataset has 2 classes',
    ]
    assert list(map_warnings(maps([0, 255], [1]), dataset('a', 'b'))) == []
    assert list(map_warnings(maps([0, 255]), dataset('a'))) == []


def test_samples_are_spread_over_the_dataset():
    assert spread(3) == [0, 1, 2]
    assert spread(1000, 3) == [0, 500, 999]
    assert spread(0) == []


def test_other_samples_have_no_map():
    assert MapValues.of(dict(img=0)) is None
