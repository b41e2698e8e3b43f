"""Tests the generator of scenes with small files in the format of Fashion-MNIST."""

import filecmp
import gzip
import importlib.util
import json
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip('skimage', reason='the backgrounds are photographs of scikit-image')
pytest.importorskip('pycocotools')
from pycocotools import mask as mask_coder

SCRIPT = Path(__file__).parents[1] / 'tools/dataset_converters/fashion_scenes.py'
spec = importlib.util.spec_from_file_location('fashion_scenes', SCRIPT)
assert spec and spec.loader
fashion_scenes = importlib.util.module_from_spec(spec)
spec.loader.exec_module(fashion_scenes)
PARTS = ('training', 'validation')


def write_idx(file, array):
    header = struct.pack('>i', 0x800 + array.ndim) + struct.pack(f'>{array.ndim}i', *array.shape)
    file.write_bytes(gzip.compress(header + array.tobytes()))


def write_source(folder):
    """Writes 40 training and 20 test images with all ten labels: white rectangles, different in each image."""
    for prefix, count in (('train', 40), ('t10k', 20)):
        pixels = np.zeros((count, 28, 28), np.uint8)
        for index in range(count):
            pixels[index, 3 : 10 + index % 15, 5 : 12 + index % 13] = 255
        write_idx(folder / f'{prefix}-images-idx3-ubyte.gz', pixels)
        write_idx(folder / f'{prefix}-labels-idx1-ubyte.gz', np.arange(count, dtype=np.uint8) % 10)
    return folder


def generate(source, out_dir, *options):
    fashion_scenes.main([str(out_dir), '--source', str(source), *map(str, options)])
    return out_dir


@pytest.fixture(scope='module')
def source(tmp_path_factory):
    return write_source(tmp_path_factory.mktemp('idx'))


@pytest.fixture(scope='module')
def scenes(source, tmp_path_factory):
    options = ('--images', 12, 6, '--sizes', 64, 128, '--classes', 'bag', 'dress', '--seed', 3)
    return generate(source, tmp_path_factory.mktemp('scenes'), *options)


@pytest.fixture(scope='module', params=PARTS)
def part(request):
    return request.param


@pytest.fixture(scope='module')
def coco(scenes, part):
    return json.loads((scenes / f'{part}.json').read_text())


def files_of(folder):
    return sorted(path.relative_to(folder) for path in folder.rglob('*') if path.is_file())


def test_images_have_the_requested_number_and_size(scenes, part, coco):
    assert len(coco['images']) == dict(training=12, validation=6)[part]
    for image in coco['images']:
        with Image.open(scenes / 'images' / image['file_name']) as file:
            assert file.size == (image['width'], image['height'])
        assert 64 <= max(file.size) <= 128 and min(file.size) >= 0.59 * max(file.size)
    assert len({max(image['width'], image['height']) for image in coco['images']}) > 1


def test_categories_are_the_chosen_classes_in_their_order(coco):
    assert coco['categories'] == [dict(id=1, name='bag'), dict(id=2, name='dress')]
    assert {each['category_id'] for each in coco['annotations']} == {1, 2}


def test_masks_of_a_scene_do_not_overlap_and_fill_the_label_map(scenes, part, coco):
    overlaps = 0
    for image in coco['images']:
        labels = np.asarray(Image.open(scenes / 'masks' / image['file_name'].replace('.jpg', '.png')))
        expected = np.zeros_like(labels)
        boxes = []
        for each in coco['annotations']:
            if each['image_id'] == image['id']:
                mask = mask_coder.decode(each['segmentation']).astype(bool)
                assert not expected[mask].any()
                expected[mask] = each['category_id']
                boxes.append(each['bbox'])
        assert boxes
        assert (labels == expected).all()
        overlaps += sum(
            x < u + w and u < x + v and y < t + h and t < y + s
            for i, (x, y, v, s) in enumerate(boxes)
            for u, t, w, h in boxes[:i]
        )
    assert overlaps or part == 'validation'  # boxes overlap: objects cover each other


def test_boxes_and_areas_describe_the_visible_masks(coco):
    for each in coco['annotations']:
        mask = mask_coder.decode(each['segmentation'])
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        left, top = columns[0], rows[0]
        assert each['bbox'] == [left, top, columns[-1] + 1 - left, rows[-1] + 1 - top]
        assert each['area'] == mask.sum() > 0


def test_an_object_is_visible_where_its_mask_is():
    """A white object on a black background: the mask is where the pixels changed."""
    random = np.random.default_rng(0)
    scene = np.zeros((50, 70, 3), np.uint8)
    colours, inside = np.full((20, 30, 3), 255, np.uint8), np.ones((20, 30), bool)
    inside[:5, :5] = False
    for _ in range(20):
        pixels = scene.copy()
        mask = fashion_scenes.paste(pixels, colours, inside, 0.5, random)
        assert (mask == (pixels == 255).all(-1)).all()
        assert mask.sum() >= 150 - 25


def test_the_border_and_other_objects_leave_a_minimum_of_each_object(source):
    garments = fashion_scenes.read_garments(source, 'training', ['bag'])
    covered = 0
    for seed in range(30):
        random = np.random.default_rng(seed)
        photos = [Image.new('RGB', (90, 80))]
        _, things = fashion_scenes.draw_scene(garments, photos, (96, 96), fashion_scenes.SCENE, random)
        for _, mask in things:
            height, width = (stop - start for start, stop in fashion_scenes.extent(mask))
            covered += mask.sum() < 0.8 * height * width  # the objects are rectangles
            assert mask.sum() >= 30
    assert covered


def test_the_parts_share_neither_photographs_nor_objects(source):
    assert not set(fashion_scenes.PHOTOS['training']) & set(fashion_scenes.PHOTOS['validation'])
    sizes = [len(fashion_scenes.read_garments(source, part, ['bag']).pixels) for part in PARTS]
    assert sizes == [40, 20]  # of different files


def test_all_photographs_are_in_the_package_of_scikit_image(part):
    photos = fashion_scenes.read_photos(part)
    assert len(photos) == len(fashion_scenes.PHOTOS[part]) > 5
    assert all(photo.mode == 'RGB' and min(photo.size) >= 190 for photo in photos)


def test_the_same_seed_gives_the_same_files_and_another_seed_others(source, tmp_path):
    options = ('--images', 3, 2, '--sizes', 64, 64)
    folders = [generate(source, tmp_path / str(n), *options, '--seed', seed) for n, seed in enumerate((7, 7, 8))]
    names = files_of(folders[0])
    assert len(names) == 2 * 5 + 2
    same, different = ([filecmp.cmp(folders[0] / n, other / n, shallow=False) for n in names] for other in folders[1:])
    assert all(same)
    assert not any(different)


def test_more_scenes_begin_with_the_same_ones(source, tmp_path):
    few, many = (generate(source, tmp_path / str(n), '--images', n, 1, '--sizes', 64, 64) for n in (2, 4))
    names = [name for name in files_of(few) if name.suffix != '.json']
    assert len(names) == 6
    assert all(filecmp.cmp(few / name, many / name, shallow=False) for name in names)


def test_single_objects_are_in_folders_named_after_their_classes(source, tmp_path):
    out = generate(source, tmp_path, '--images', 9, 6, '--sizes', 64, 64, '--single', '--classes', 'bag', 'dress')
    assert {path.parts[0] for path in files_of(out)} == set(PARTS)
    assert {path.parts[1] for path in files_of(out)} == {'bag', 'dress'}
    assert len(files_of(out)) == 15
    assert all(Image.open(out / path).size == (64, 64) for path in files_of(out))


def test_a_missing_package_is_one_sentence_with_the_command(tmp_path):
    with pytest.raises(SystemExit, match=r'^.*train-images-idx3-ubyte.gz does not exist: install it with `apt-get'):
        generate(tmp_path, tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize('damage', ['not gzip', 'truncated', 'labels', 'too short'])
def test_damaged_source_files_are_one_sentence(tmp_path, damage):
    file = write_source(tmp_path) / 'train-images-idx3-ubyte.gz'
    content = gzip.decompress(file.read_bytes())
    file.write_bytes(
        {
            'not gzip': b'text',
            'truncated': file.read_bytes()[:50],
            'labels': (tmp_path / 'train-labels-idx1-ubyte.gz').read_bytes(),
            'too short': gzip.compress(content[:-1]),
        }[damage]
    )
    with pytest.raises(SystemExit, match='train-images-idx3-ubyte.gz is not an IDX file of Fashion-MNIST: '):
        generate(tmp_path, tmp_path / 'out')


def test_useless_options_and_existing_folders_are_rejected(source, tmp_path, capsys):
    for options, sentence in (
        (('--sizes', 64, 32), 'MAX at least MIN'),
        (('--sizes', 8, 32), 'MIN must be at least 32'),
        (('--images', 0, 5), '--images must be at least 1'),
        (('--seed', -1), '--seed at least 0'),
    ):
        with pytest.raises(SystemExit):
            generate(source, tmp_path / 'out', *options)
        assert sentence in capsys.readouterr().err
    (tmp_path / 'precious.txt').write_text('precious')
    for path in (tmp_path, tmp_path / 'precious.txt'):
        with pytest.raises(SystemExit):
            generate(source, path)
        assert 'delete it, or choose another folder' in capsys.readouterr().err
