"""Masks that pycocotools would read or write outside of its buffers, or leave uninitialised."""

import re

import numpy as np
import pytest

from mmvmamba.engine.checks.masks import mask_fault
from mmvmamba.engine.errors import DataError
from mmvmamba.engine.patches.file_readers import install_file_readers

pycocotools_mask = pytest.importorskip('pycocotools.mask')

SQUARE = [2, 3, 12, 3, 12, 11, 2, 11]


def compress(mask):
    rle = pycocotools_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return dict(size=rle['size'], counts=rle['counts'])


def test_masks_that_pycocotools_writes_are_accepted():
    chance = np.random.default_rng(0)
    for height, width in [(1, 1), (1, 300), (37, 51), (700, 900)]:
        for share in (0.0, 0.01, 0.5, 1.0):
            rle = compress(chance.random((height, width)) < share)
            assert mask_fault(rle) is None
            assert mask_fault(rle | dict(counts=rle['counts'].decode())) is None


def test_long_runs_are_accepted():
    mask = np.zeros((5000, 6000), bool)
    mask[10, 10] = mask[4000, 5000] = True
    assert mask_fault(compress(mask)) is None


@pytest.mark.parametrize('mask', [[SQUARE], [SQUARE, SQUARE], [np.array(SQUARE)], [[1, 2]], [[]], []])
def test_polygons_that_mmdet_takes_are_accepted(mask):
    assert mask_fault(mask) is None


def test_run_lengths_are_accepted():
    assert mask_fault(dict(size=[10, 10], counts=[40, 20, 40])) is None


@pytest.mark.parametrize(
    'mask, fault',
    [
        ([[1e308, 0, 0, 1e308, 5, 5]], r'has the coordinate 1e\+308'),
        ([[0, 0, 0, float('nan'), 5, 5]], 'has the coordinate nan'),
        ([[0, 0, 0, float('-inf'), 5, 5]], 'has the coordinate -inf'),
        ([[0, 0, 0, 429496730, 5, 5]], 'has the coordinate 429496730'),
        ([[0, 0, 0, 10**400, 5, 5]], 'has the coordinate an integer of more than 256 bits'),
        ([[0, 0, 0, None, 5, 5]], 'has the coordinate None'),
        ([[0, 0, 0, '1', 5, 5]], "has the coordinate '1'"),
        ([[[0, 0], [0, 1]]], r'has the coordinate \[0, 0\]'),
        ([[0, 0, 0, 1, 5]], 'has a polygon of 5 numbers'),
        ([1, 2, 3, 4, 5, 6], 'has the polygon 1'),
        ([[0, 0, 2**20, 2**20] * 5], 'has a polygon with an outline of .* pixels, but the limit is'),
        ('polygon', "is 'polygon', but must be a list of polygons or a dict"),
        (5, 'is 5, but'),
        ({'counts': [1]}, 'has no size'),
        ({'size': [10, 10]}, 'has no counts'),
        (dict(size=None, counts=[100]), 'has no size'),
        (dict(size=[10], counts=[10]), r'has the size \[10\]'),
        (dict(size=[10.0, 10.0], counts=[100]), r'has the size \[10.0, 10.0\]'),
        (dict(size=[-10, -10], counts=[100]), r'has the size \[-10, -10\]'),
        (dict(size=[2**31, 2**31], counts=[1]), 'more pixels than the limit'),
        (dict(size=[10, 10], counts=[50]), 'for 50 pixels, but the size 10 x 10 has 100'),
        (dict(size=[10, 10], counts=[]), 'for 0 pixels'),
        (dict(size=[10, 10], counts=[50, 51]), 'for 101 pixels'),
        (dict(size=[10, 10], counts=[-5, 105]), 'has the run length -5'),
        (dict(size=[10, 10], counts=[50.5, 49.5]), 'has the run length 50.5'),
        (dict(size=[10, 10], counts=[True, 99]), 'has the run length True'),
        (dict(size=[10, 10], counts=7), 'has the counts 7'),
    ],
)
def test_other_masks_have_a_fault(mask, fault):

    assert re.search(fault, mask_fault(mask))


@pytest.mark.parametrize(
    'change',
    [
        lambda text: text[:-1],
        lambda text: text + b'P',  # a number goes on beyond the end
        lambda text: text + b'0' * 3,
        lambda text: b'o' * 2000,
        lambda text: b'',
        lambda text: b'\xff\xff',
        lambda text: b'   ',
        lambda text: 'é',
    ],
)
def test_damaged_compressed_run_lengths_have_a_fault(change):
    rle = compress(np.eye(10))
    assert mask_fault(rle | dict(counts=change(rle['counts']))) is not None


def test_pycocotools_itself_gets_no_such_mask():
    install_file_readers()
    assert (
        pycocotools_mask.decode(pycocotools_mask.frPyObjects(dict(size=[10, 10], counts=[40, 60]), 10, 10)).sum() == 60
    )
    assert len(pycocotools_mask.frPyObjects([SQUARE], 20, 20)) == 1
    with pytest.raises(DataError, match=r'has the coordinate 1e\+308'):
        pycocotools_mask.frPyObjects([[1e308, 0, 0, 1e308, 5, 5]], 20, 20)
    with pytest.raises(DataError, match='for 50 pixels'):
        pycocotools_mask.frPyObjects(dict(size=[10, 10], counts=[50]), 10, 10)
    with pytest.raises(DataError, match='not compressed run lengths'):
        pycocotools_mask.decode(dict(size=[10, 10], counts=b'5P'))
