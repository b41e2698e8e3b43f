import numpy as np
import pytest

from mmvmamba.engine.panels import GAP, SMALLEST, arranged, titled


def image(height, width):
    return np.zeros((height, width, 3), np.uint8)


def test_a_small_image_is_enlarged_below_its_title():
    picture = titled(image(32, 64), ['annotation: 3', 'prediction: 5'])
    assert picture.shape[1] == 2 * SMALLEST
    assert (picture[-SMALLEST:] == 0).all()
    title = picture[:-SMALLEST]
    assert (title[0] == 255).all()
    assert (title < 100).any()


def test_a_large_image_keeps_its_pixels():
    noise = np.random.default_rng(0).integers(256, size=(300, 400, 3), dtype=np.uint8)
    assert (titled(noise, ['prediction'])[-300:] == noise).all()


def test_an_alarming_title_is_red():
    title = titled(image(200, 200), ['prediction: 5'], alarm=True)[:-200]
    blue, _, red = title[title.min(-1) < 100].T
    assert (red > blue).all()


def test_a_long_title_ends_inside_the_picture():
    title = titled(image(200, 200), ['prediction: ' + 'tench, Tinca tinca, ' * 10])[:-200]
    assert (title[:, -4:] == 255).all()


@pytest.mark.parametrize('size, expected', [((100, 200), (100, 400 + GAP)), ((100, 201), (200 + GAP, 201))])
def test_panels_of_wide_images_are_below_each_other(size, expected):
    assert arranged([image(*size), image(*size)]).shape[:2] == expected


def test_a_single_panel_has_no_gap():
    assert arranged([image(10, 15)]).shape == (10, 15, 3)
