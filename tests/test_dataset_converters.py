"""Tests the commands of docs/your_data_conversion.md on the small datasets of tests/own_data.py."""

import importlib.util
import json
import xml.etree.ElementTree as xml
from pathlib import Path

import numpy as np
import pytest

cv2 = pytest.importorskip('cv2')

from tests import own_data  # noqa: E402

ROOT = Path(__file__).parents[1]


def tool(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / f'tools/dataset_converters/{name}.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return lambda *arguments: module.main([str(argument) for argument in arguments])


@pytest.fixture
def mine(tmp_path):
    own_data.instances(tmp_path / 'mine')
    return tmp_path / 'mine'


def read(file):
    return json.loads(file.read_text())


class TestSplit:
    def test_both_parts_contain_all_classes_and_no_image_twice(self, mine):
        tool('split_coco')(mine / 'annotations.json', '--validation', 0.2)
        whole, *parts = (read(mine / f'{name}.json') for name in ('annotations', 'training', 'validation'))
        assert [len(part['images']) for part in parts] == [8, 2]
        assert all(part['categories'] == whole['categories'] for part in parts)
        assert all({each['category_id'] for each in part['annotations']} == {1, 5, 9} for part in parts)
        for key in ('images', 'annotations'):
            both = [each['id'] for part in parts for each in part[key]]
            assert sorted(both) == sorted(each['id'] for each in whole[key])
        for part in parts:
            assert {each['image_id'] for each in part['annotations']} <= {image['id'] for image in part['images']}

    def test_rare_classes_are_in_both_parts(self, mine):
        """Class 9 is only in 4 of 40 images; a random split often gives all of them to one part."""
        content = dict(
            images=[dict(id=n, file_name=f'{n}.jpg', height=9, width=9) for n in range(40)],
            annotations=[
                dict(id=n, image_id=n, category_id=9 if n % 10 == 0 else 1, bbox=[0, 0, 5, 5], area=25)
                for n in range(40)
            ],
            categories=own_data.CATEGORIES,
        )
        for seed in range(5):
            folder = mine / str(seed)
            folder.mkdir()
            (folder / 'all.json').write_text(json.dumps(content))
            tool('split_coco')(folder / 'all.json', '--validation', 0.25, '--seed', seed)
            found = [each['category_id'] for each in read(folder / 'validation.json')['annotations']]
            assert (len(found), found.count(9)) == (10, 1)

    def test_the_seed_determines_the_split(self, mine):
        def split(seed):
            for name in ('training', 'validation'):
                (mine / f'{name}.json').unlink(missing_ok=True)
            tool('split_coco')(mine / 'annotations.json', '--seed', seed)
            return [image['id'] for image in read(mine / 'validation.json')['images']]

        assert split(0) == split(0)
        assert len({tuple(split(seed)) for seed in range(5)}) > 1

    def test_existing_files_and_useless_shares_are_rejected(self, mine):
        with pytest.raises(SystemExit, match='--validation 0.01 of 10 images selects 0, but both parts need'):
            tool('split_coco')(mine / 'annotations.json', '--validation', 0.01)
        (mine / 'training.json').write_text('precious')
        with pytest.raises(SystemExit, match='training.json exists: delete it'):
            tool('split_coco')(mine / 'annotations.json')
        assert (mine / 'training.json').read_text() == 'precious' and not (mine / 'validation.json').exists()


class TestCocoToMasks:
    def test_masks_have_the_classes_in_the_order_of_the_categories(self, mine, capsys):
        pytest.importorskip('pycocotools')
        tool('coco_to_masks')(mine / 'annotations.json', mine / 'masks')
        assert "classes = ('background', 'ball', 'box', 'wedge')" in capsys.readouterr().out
        masks = [cv2.imread(str(mine / f'masks/photo {n}.png'), cv2.IMREAD_UNCHANGED) for n in range(10)]
        assert {mask.shape for mask in masks} == {(own_data.HEIGHT, own_data.WIDTH)}
        values = [set(np.unique(mask)) for mask in masks]
        assert values == [{0, 1, 2, 3}, {0}, {0, 2, 3, 255}] + [{0, 1, 2, 3}] * 7  # 1: no object; 2: a crowd
        image = cv2.imread(str(mine / 'images/photo 0.jpg')).astype(int)
        for value, colour in enumerate(own_data.COLOURS, start=1):
            error = abs(image[masks[0] == value] - colour).mean()
            assert error < 25

    def test_smaller_objects_are_on_top(self, tmp_path):
        pytest.importorskip('pycocotools')

        def square(side, **values):
            outline = [[0, 0, side, 0, side, side, 0, side]]
            return dict(image_id=1, segmentation=outline, bbox=[0, 0, side, side], area=side * side, **values)

        content = dict(
            images=[dict(id=1, file_name='a.jpg', height=10, width=10)],
            annotations=[square(4, id=1, category_id=5), square(8, id=2, category_id=1)],
            categories=own_data.CATEGORIES,
        )
        (tmp_path / 'a.json').write_text(json.dumps(content))
        tool('coco_to_masks')(tmp_path / 'a.json', tmp_path / 'masks')
        mask = cv2.imread(str(tmp_path / 'masks/a.png'), cv2.IMREAD_UNCHANGED)
        assert (mask[1, 1], mask[6, 6], mask[9, 9]) == (2, 1, 0)

    def test_an_object_without_a_mask_is_named(self, mine):
        pytest.importorskip('pycocotools')
        content = read(mine / 'annotations.json')
        del content['annotations'][3]['segmentation']
        (mine / 'annotations.json').write_text(json.dumps(content))
        with pytest.raises(SystemExit, match='annotations.json: annotation 4 has no segmentation, which a mask needs'):
            tool('coco_to_masks')(mine / 'annotations.json', mine / 'masks')

    def test_existing_masks_are_kept(self, mine):
        pytest.importorskip('pycocotools')
        (mine / 'masks').mkdir()
        (mine / 'masks/photo 0.png').write_text('precious')
        with pytest.raises(SystemExit, match='masks is not empty: choose a new folder'):
            tool('coco_to_masks')(mine / 'annotations.json', mine / 'masks')
        assert (mine / 'masks/photo 0.png').read_text() == 'precious'


class TestMaskValues:
    @pytest.fixture
    def labels(self):
        return np.random.default_rng(0).integers(0, 3, (6, 8)).astype(np.uint8)

    def convert(self, folder, *options):
        tool('mask_values')(folder / 'in', folder / 'out', *options)
        return cv2.imread(str(folder / 'out/sub/a.png'), cv2.IMREAD_UNCHANGED)

    def write(self, folder, mask):
        (folder / 'in/sub').mkdir(parents=True)
        cv2.imwrite(str(folder / 'in/sub/a.png'), mask)

    def test_colours_become_classes(self, labels, tmp_path):
        colours = np.array([[0, 0, 0], [0, 0, 255], [0, 255, 0]], np.uint8)  # BGR
        self.write(tmp_path, colours[labels])
        assert (self.convert(tmp_path, '--values', '0,0,0', '255,0,0', '0,255,0') == labels).all()

    def test_0_and_255_become_0_and_1(self, labels, tmp_path):
        self.write(tmp_path, np.where(labels > 0, 255, 0).astype(np.uint8))
        assert (self.convert(tmp_path, '--values', 0, 255) == (labels > 0)).all()

    def test_ignored_values_become_255(self, labels, tmp_path):
        self.write(tmp_path, labels * 100)
        assert (self.convert(tmp_path, '--values', 100, 200, '--ignore', 0) == np.array([255, 0, 1])[labels]).all()

    def test_an_unknown_value_is_named(self, labels, tmp_path):
        self.write(tmp_path, labels * 100)
        with pytest.raises(SystemExit, match=r'a\.png has the value 200, but --values is 0 100: add it to'):
            self.convert(tmp_path, '--values', 0, 100)

    def test_a_mask_in_colours_needs_colours(self, tmp_path):
        self.write(tmp_path, np.zeros((4, 4, 3), np.uint8))
        with pytest.raises(SystemExit, match=r'a\.png has 3 channels: give --values as colours'):
            self.convert(tmp_path, '--values', 0, 255)

    def test_existing_masks_are_kept(self, labels, tmp_path):
        self.write(tmp_path, labels)
        (tmp_path / 'out').mkdir()
        (tmp_path / 'out/a.png').write_text('precious')
        with pytest.raises(SystemExit, match='out is not empty: choose a new folder'):
            self.convert(tmp_path, '--values', 0, 1, 2)
        assert (tmp_path / 'out/a.png').read_text() == 'precious'

    @pytest.mark.parametrize(
        'options, message',
        [(['0', '1,2,3'], 'mix values and colours'), (['0', '0'], 'each value once')],
    )
    def test_contradictory_values_are_rejected(self, options, message, tmp_path):
        with pytest.raises(SystemExit, match=message):
            self.convert(tmp_path, '--values', *options)


class TestToCoco:
    """Needs supervision, which is not installed by `make setup`."""

    OUTLINE = [[20, 30], [60, 30], [60, 70], [20, 70]]

    @pytest.fixture
    def folder(self, tmp_path):
        pytest.importorskip('supervision')
        (tmp_path / 'images').mkdir()
        (tmp_path / 'given').mkdir()
        cv2.imwrite(str(tmp_path / 'images/a.jpg'), np.zeros((100, 200, 3), np.uint8))
        return tmp_path

    def convert(self, folder, kind, *options):
        tool('to_coco')(kind, folder / 'images', folder / 'given', folder / 'out.json', *options)
        content = read(folder / 'out.json')
        [image], [annotation] = content['images'], content['annotations']
        names = {category['id']: category['name'] for category in content['categories']}
        assert (image['file_name'], image['height'], image['width']) == ('a.jpg', 100, 200)
        assert names[annotation['category_id']] == 'box'
        assert np.allclose(annotation['bbox'], [20, 30, 40, 40], atol=1.01)
        return annotation

    def shapes(self, folder, kind='polygon'):
        shape = dict(label='box', shape_type=kind, points=self.OUTLINE, group_id=None, flags={})
        content = dict(
            version='5.0', imagePath='a.jpg', imageHeight=100, imageWidth=200, shapes=[shape], imageData=None
        )
        (folder / 'given/a.json').write_text(json.dumps(content))

    def test_labelme(self, folder):
        self.shapes(folder)
        [polygon] = self.convert(folder, 'labelme')['segmentation']
        assert np.allclose(sorted(polygon), sorted(np.ravel(self.OUTLINE)), atol=1.01)

    def test_an_object_of_several_parts_is_not_a_crowd(self, folder):
        """mmdet would not train on it."""
        self.shapes(folder)
        content = read(folder / 'given/a.json')
        [shape] = content['shapes']
        corner = dict(shape, points=[[20, 30], [30, 30], [20, 40]], group_id=1)
        content['shapes'] = [corner, dict(corner, points=[[60, 70], [50, 70], [60, 60]])]
        (folder / 'given/a.json').write_text(json.dumps(content))
        annotation = self.convert(folder, 'labelme')
        assert annotation['iscrowd'] == 0 and annotation['segmentation']['size'] == [100, 200]

    def test_labelme_with_other_shapes_is_rejected(self, folder):
        self.shapes(folder, 'circle')
        with pytest.raises(SystemExit, match=r'a\.json has the shape circle, but only polygons and rectangles'):
            self.convert(folder, 'labelme')

    def test_voc(self, folder):
        root = xml.Element('annotation')
        xml.SubElement(root, 'filename').text = 'a.jpg'
        size, thing = xml.SubElement(root, 'size'), xml.SubElement(root, 'object')
        for name, value in dict(width=200, height=100, depth=3).items():
            xml.SubElement(size, name).text = str(value)
        xml.SubElement(thing, 'name').text = 'box'
        box = xml.SubElement(thing, 'bndbox')
        for name, value in dict(xmin=20, ymin=30, xmax=60, ymax=70).items():
            xml.SubElement(box, name).text = str(value)
        xml.ElementTree(root).write(folder / 'given/a.xml')
        self.convert(folder, 'voc')

    def test_yolo(self, folder):
        (folder / 'given/a.txt').write_text('1 0.2 0.5 0.2 0.4\n')
        (folder / 'data.yaml').write_text('names: [ball, box]\nnc: 2\n')
        self.convert(folder, 'yolo', '--data-yaml', folder / 'data.yaml')
        with pytest.raises(SystemExit, match='yolo needs --data-yaml FILE'):
            self.convert(folder, 'yolo')

    def test_damaged_annotations_are_named(self, folder):
        (folder / 'given/a.xml').write_text('<annotation>')
        with pytest.raises(SystemExit, match='given cannot be read as annotations of voc: no element found'):
            self.convert(folder, 'voc')
        (folder / 'given/a.json').write_text('{}')
        with pytest.raises(SystemExit, match='given cannot be read as annotations of labelme'):
            self.convert(folder, 'labelme')
