"""The structure of COCO's annotation files."""

import json

import pytest

from mmvmamba.engine.checks.coco_files import category_fault, mask_evaluation_fault, read_coco
from mmvmamba.engine.errors import DataError


def coco():
    square = [[2, 3, 12, 3, 12, 11, 2, 11]]
    return dict(
        images=[dict(id=1, file_name='a.png', height=20, width=24)],
        annotations=[dict(id=7, image_id=1, category_id=3, bbox=[2, 3, 10, 8], area=80, segmentation=square)],
        categories=[dict(id=3, name='coin'), dict(id=5, name='token')],
    )


def write(tmp_path, content):
    file = tmp_path / 'annotations.json'
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return file


def test_a_whole_file_is_read_and_completed(tmp_path):
    content = coco()
    content['images'][0]['height'] = 20.0
    found = read_coco(write(tmp_path, content))
    expected = coco()
    expected['annotations'][0]['iscrowd'] = 0
    assert found == expected and type(found['images'][0]['height']) is int


def test_a_byte_order_mark_is_no_fault(tmp_path):
    assert read_coco(write(tmp_path, '\ufeff' + json.dumps(coco())))['images']


def test_files_of_captions_need_no_boxes(tmp_path):
    content = coco() | dict(annotations=[dict(id=1, image_id=1, caption='a coin')])
    del content['categories']
    assert read_coco(write(tmp_path, content)) == content


def entry(part, **values):
    def alter(content):
        content[part][0].update(values)
        for key in [key for key, value in values.items() if value is ...]:
            del content[part][0][key]

    return alter


NAN = float('nan')


@pytest.mark.parametrize(
    'alter, sentence',
    [
        (entry('annotations', bbox=...), 'annotation 7 has no bbox, but needs x, y, width and height'),
        (entry('annotations', bbox=[1, 2, 3]), r'annotation 7 has the bbox \[1, 2, 3\]'),
        (entry('annotations', bbox=[1, 2, 3, NAN]), r'annotation 7 has the bbox \[1, 2, 3, nan\]'),
        (entry('annotations', bbox=[1, 2, 3, None]), r'annotation 7 has the bbox \[1, 2, 3, None\]'),
        (entry('annotations', bbox=[1, 2, 3, '4']), r"annotation 7 has the bbox \[1, 2, 3, '4'\]"),
        (entry('annotations', bbox=[1, 2, 3, 1e30]), r'annotation 7 has the bbox \[1, 2, 3, 1e\+30\]'),
        (entry('annotations', area=...), 'annotation 7 has no area, but needs a finite number'),
        (entry('annotations', area='big'), "annotation 7 has the area 'big'"),
        (entry('annotations', id=None), 'entry 0 of annotations has the id None'),
        (entry('annotations', id=[1]), r'entry 0 of annotations has the id \[1\]'),
        (entry('annotations', id=...), 'entry 0 of annotations has no id'),
        (entry('annotations', image_id='1'), "annotation 7 has the image_id '1', but the ids of images are integers"),
        (entry('annotations', image_id={}), 'annotation 7 has the image_id {}'),
        (entry('annotations', category_id=4), r'annotation 7 has the category_id 4, .* the id of a category \(3, 5\)'),
        (entry('annotations', category_id='3'), "annotation 7 has the category_id '3'"),
        (entry('annotations', iscrowd='no'), "annotation 7 has the iscrowd 'no', but it must be 0 or 1"),
        (entry('annotations', segmentation={'counts': [1]}), 'the segmentation of annotation 7 has no size'),
        (entry('annotations', segmentation=[[1e308] * 6]), 'the segmentation of annotation 7 has the coordinate'),
        (entry('annotations', segments_info=3), 'annotation 7 has the segments_info 3'),
        (entry('images', file_name=None), 'image 1 has the file_name None, but it must be a string'),
        (entry('images', height=0), 'image 1 has the height 0, but it must be a positive integer'),
        (entry('images', width=1e308), r'image 1 has the (width 1e\+308|size)'),
        (entry('images', width=10**9), 'image 1 has the size'),
        (entry('images', width=NAN), 'image 1 has the width nan'),
        (entry('categories', name=3), 'category 3 has the name 3, but it must be a string'),
        (lambda content: content.update(images=None), 'images is null, but must be a list'),
        (lambda content: content.update(images={'a': 1}), 'images is an object, but must be a list'),
        (lambda content: content.update(annotations=[5]), 'entry 0 of annotations is a number, but must be an object'),
        (lambda content: content.update(images=content['images'] * 2), 'image 1 occurs twice'),
        (lambda content: content.update(annotations=content['annotations'] * 2), 'annotation 7 occurs twice'),
        (lambda content: content['images'].append(dict(id='2', file_name='')), "image '2' has a string as id"),
    ],
)
def test_each_fault_is_named_with_its_file_and_entry(alter, sentence, tmp_path):
    content = coco()
    alter(content)
    file = write(tmp_path, content)
    with pytest.raises(DataError, match=f'^{file}: {sentence}'):
        read_coco(file)


@pytest.mark.parametrize('content', ['[1', '', '[' * 100000, '{"a": 1' + '0' * 5000 + '}', '{"images": [NULL]}'])
def test_what_is_not_json_is_named(content, tmp_path):
    with pytest.raises(DataError, match=r'annotations.json cannot be read as JSON: '):
        read_coco(write(tmp_path, content))


@pytest.mark.parametrize('content', ['null', '[]', '3', '"text"'])
def test_the_top_level_must_be_an_object(content, tmp_path):
    with pytest.raises(DataError, match='but COCO annotations are an object with images, annotations, categories'):
        read_coco(write(tmp_path, content))


def test_a_message_has_one_line_of_bounded_length(tmp_path):
    content = coco()
    content['annotations'][0].update(category_id='\n\x1b[31m' + 'x' * 10**6)
    content['categories'] += [dict(id=f'{n}\n', name='y' * 10**5) for n in range(1000)]
    content['categories'] = content['categories'][2:]
    with pytest.raises(DataError) as caught:
        read_coco(write(tmp_path, content))
    assert str(caught.value).isprintable() and len(str(caught.value)) < 2001


def test_each_class_has_one_category_in_the_same_order():
    assert category_fault(coco(), ('coin', 'token')) is None
    assert category_fault(coco(), ('token',)) is None
    assert category_fault(coco(), ('coin', 'medal', 'token')) == (
        'it has no category for the classes medal of metainfo.classes; its categories are coin, token'
    )
    assert 'in the order coin, token' in category_fault(coco(), ('token', 'coin'))
    assert "is the string 'coin'" in category_fault(coco(), 'coin')
    twice = coco()
    twice['categories'][1]['name'] = 'coin'
    assert "two categories with the name 'coin'" in category_fault(twice, ('coin',))


def test_the_evaluation_of_masks_needs_all_of_them():
    assert mask_evaluation_fault(coco()) is None
    for segmentation in (None, [], [[1, 2, 3, 4]]):
        content = coco()
        content['annotations'][0]['segmentation'] = segmentation
        assert mask_evaluation_fault(content).startswith('annotation 7 has ')
