"""Tests the demo data set: masks are correct, and no held-out coin appears in the training tiles."""

import filecmp
import json
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pytest

skimage = pytest.importorskip('skimage', reason='the coins are a photograph of scikit-image')
SCRIPT = Path(__file__).parents[1] / 'tools' / 'dataset_converters' / 'coins.py'
PARTS = ('training', 'validation')


@pytest.fixture(scope='module')
def coins():
    spec = spec_from_file_location('coins', SCRIPT)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope='module')
def out_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp('coins')
    subprocess.run([sys.executable, SCRIPT, '--out-dir', folder], check=True)
    return folder


@pytest.fixture(scope='module')
def instances(out_dir):
    return {part: json.loads((out_dir / f'annotations/instances_{part}.json').read_text()) for part in PARTS}


def decode(rle):
    """Decodes COCO run lengths independently of the encoder."""
    values = np.arange(len(rle['counts'])) % 2
    return np.repeat(values, rle['counts']).reshape(rle['size'], order='F').astype(bool)


def masks_by_image(coco):
    masks = {image['id']: [] for image in coco['images']}
    for annotation in coco['annotations']:
        masks[annotation['image_id']].append(decode(annotation['segmentation']))
    return masks


def test_photograph_is_available_from_the_package():
    assert (Path(skimage.__file__).parent / 'data' / 'coins.png').is_file()


def test_photograph_has_24_round_coins(coins):
    labels = coins.segment_coins(coins.load_photo())
    regions = coins.measure.regionprops(labels)
    assert len(regions) == 24
    for region in regions:
        assert region.solidity > 0.95  # no notch, no spike
        assert region.eccentricity < 0.6  # one coin, not two touching ones
        assert 4000 < region.area < 13000
        assert region.euler_number == 1  # no hole
        top, left, bottom, right = region.bbox
        assert top > 0 and left > 0 and bottom < labels.shape[0] and right < labels.shape[1]


def test_no_coin_is_in_both_splits(instances):
    training, validation = ([a['coin_id'] for a in instances[part]['annotations']] for part in PARTS)
    assert len(set(training)) == 12
    assert sorted(validation) == sorted(set(validation)) and len(validation) == 12  # each coin once
    assert not set(training) & set(validation)


def test_tiles_of_the_splits_do_not_overlap(coins, out_dir):
    shape = coins.load_photo().shape
    covered = {}
    for part, tiles in zip(PARTS, (coins.training_tiles(shape), coins.validation_tiles(shape))):
        covered[part] = np.zeros(shape, dtype=bool)
        for tile in tiles:
            tile.cut(covered[part])[:] = True
        assert len(list((out_dir / 'images' / part).iterdir())) == len(tiles)
    assert not (covered['training'] & covered['validation']).any()
    assert (covered['training'] | covered['validation']).all()


def test_validation_coins_are_not_cut_off(coins, instances):
    labels = coins.segment_coins(coins.load_photo())
    for annotation in instances['validation']['annotations']:
        assert annotation['area'] == (labels == annotation['coin_id']).sum()


@pytest.mark.parametrize('broken', ['shared', 'cut', 'lost'])
def test_check_split_detects_broken_splits(coins, broken):
    photo = coins.load_photo()
    labels = coins.segment_coins(photo)
    training, validation = coins.training_tiles(photo.shape), coins.validation_tiles(photo.shape)
    coins.check_split(labels, training, validation)
    if broken == 'shared':
        training = [*training, coins.Tile(200, 0, 456, 256)]
    elif broken == 'cut':
        validation = [coins.Tile(300, 0, 606, 400), coins.Tile(300, 400, 606, 768)]
    else:
        validation = [coins.Tile(300, 0, 606, 500)]
    with pytest.raises(RuntimeError):
        coins.check_split(labels, training, validation)


@pytest.mark.parametrize('part', PARTS)
def test_annotations_match_their_images(coins, out_dir, instances, part):
    coco = instances[part]
    images = {image['id']: image for image in coco['images']}
    assert {image['file_name'] for image in coco['images']} == {p.name for p in (out_dir / 'images' / part).iterdir()}
    for image in coco['images']:
        pixels = coins.io.imread(out_dir / 'images' / part / image['file_name'])
        assert pixels.shape == (image['height'], image['width'])
    assert len({a['id'] for a in coco['annotations']}) == len(coco['annotations'])
    for annotation in coco['annotations']:
        image = images[annotation['image_id']]
        mask = decode(annotation['segmentation'])
        assert mask.shape == (image['height'], image['width'])
        assert mask.sum() == annotation['area'] > 0
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        left, top, width, height = annotation['bbox']
        assert (left, top) == (columns[0], rows[0])
        assert (left + width, top + height) == (columns[-1] + 1, rows[-1] + 1)


@pytest.mark.parametrize('part', PARTS)
def test_semantic_map_is_the_union_of_the_instances(coins, out_dir, instances, part):
    masks = masks_by_image(instances[part])
    for image in instances[part]['images']:
        labels = coins.io.imread(out_dir / 'annotations' / part / image['file_name'])
        union = np.any(masks[image['id']], axis=0)
        assert np.stack(masks[image['id']]).sum(0).max() == 1  # instances do not overlap
        assert set(np.unique(labels)) == {0, 1}
        assert (union == labels.astype(bool)).all()


def test_images_are_crops_of_the_photograph(coins, out_dir, instances):
    photo = coins.load_photo()
    for tile in coins.validation_tiles(photo.shape):
        pixels = coins.io.imread(out_dir / f'images/validation/y{tile.top:03d}_x{tile.left:03d}.png')
        assert (pixels == tile.cut(photo)).all()


def test_pycocotools_reads_the_files(out_dir, instances):
    pytest.importorskip('pycocotools')
    from pycocotools.coco import COCO

    for part in PARTS:
        coco = COCO(out_dir / f'annotations/instances_{part}.json')
        for annotation in coco.anns.values():
            assert (coco.annToMask(annotation) == decode(annotation['segmentation'])).all()


def test_generated_files_are_deterministic(out_dir, tmp_path):
    subprocess.run([sys.executable, SCRIPT, '--out-dir', tmp_path], check=True)
    files = sorted(path.relative_to(out_dir) for path in out_dir.rglob('*') if path.is_file())
    assert files == sorted(path.relative_to(tmp_path) for path in tmp_path.rglob('*') if path.is_file())
    assert len(files) == 2 * (18 + 1) + 3
    assert all(filecmp.cmp(out_dir / path, tmp_path / path, shallow=False) for path in files)


def test_another_photograph_is_rejected(coins):
    with pytest.raises(RuntimeError, match='coins instead of 24'):
        coins.segment_coins(np.zeros((606, 768), dtype=np.uint8))
