"""Checks that annotation files in COCO format have the structure that pycocotools and the libraries expect."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeGuard

from ..errors import DataError, raise_first
from .boxes import box_warnings, boxes_of, corner_fault
from .images import check_regular_file, pixel_limit
from .masks import MAX_COORDINATE, has_invalid_coordinates, is_integer, is_number, mask_fault
from .quoting import listed, quoted
from .reporting import warn

ENTRIES = {'images': 'image', 'annotations': 'annotation', 'categories': 'category'}


def read_coco(path: str | Path) -> dict:
    """Reads an annotation file and checks all parts that are used.

    A missing `iscrowd` is set to 0: mmdet's training assumes 0, but pycocotools' evaluation fails without the key. A
    `height` or `width` such as 480.0 is converted to an integer. Unusual boxes are logged.

    Raises:
        DataError: names the file, the entry, what was found and what was expected.
    """
    check_regular_file(path)
    try:
        with open(path, encoding='utf-8-sig') as file:  # with or without a byte order mark
            content = json.load(file)
    except (OSError, ValueError, RecursionError, MemoryError) as error:
        raise DataError(f'{path} cannot be read as JSON: {_reason(error)}') from error
    raise_first(f'{path}: {fault}' for fault in coco_faults(content))
    boxes = boxes_of(content)
    if fault := corner_fault(boxes):
        raise DataError(f'{path}: {fault}')
    for sentence in box_warnings(boxes):
        warn(f'{path}: {sentence}')
    return content


def coco_faults(content: object) -> Iterator[str]:
    """Yields a sentence for each fault in the content of an annotation file.

    Changes `content` in place: sets missing `iscrowd`, and converts `height` and `width` to integers. One fault can
    cause others. Some faults prevent further checks.
    """
    if not isinstance(content, dict):
        yield f'it holds {_kind(content)}, but COCO annotations are an object with {", ".join(ENTRIES)}'
        return
    for key, name in ENTRIES.items():
        entries = content.get(key, [])
        if not isinstance(entries, list):
            yield f'{key} is {_kind(entries)}, but must be a list'
            return
        for number, entry in enumerate(entries):
            if not isinstance(entry, dict):
                yield f'entry {number} of {key} is {_kind(entry)}, but must be an object'
                return
            if not _is_id(entry.get('id')):
                yield _without(entry, 'id', f'entry {number} of {key}', 'an integer or a string')
                return
        yield from _id_faults(entries, name)
    yield from _category_faults(content.get('categories', []))
    yield from _image_faults(content.get('images', []))
    yield from _annotation_faults(content)


def mask_evaluation_fault(content: dict) -> str | None:
    """Returns a sentence about the first annotation whose mask pycocotools cannot evaluate, or None."""
    for annotation in content.get('annotations', ()):
        name, mask = f'annotation {quoted(annotation["id"])}', annotation.get('segmentation')
        if not mask:
            return f'{name} has no segmentation, which the evaluation of masks needs'
        if isinstance(mask, list) and min(map(len, mask)) < 6:
            return f'{name} has a polygon of {min(map(len, mask))} numbers in its segmentation, but needs at least 6'
    return None


def category_fault(content: Mapping, classes: str | Sequence[str]) -> str | None:
    """Returns a sentence if a class has no category in the file, or if their orders differ, else None.

    mmdet silently ignores a class without a category, and numbers the labels of the others in the order of the file.
    Categories that are not classes of the dataset are allowed.
    """
    if isinstance(classes, str):
        return f'metainfo.classes is the string {quoted(classes)}, but must be a tuple: write ({quoted(classes)},)'
    names = [category['name'] for category in content.get('categories', ())]
    missing = [name for name in classes if name not in names]
    if missing:
        return (
            f'it has no category for the classes {listed(missing)} of metainfo.classes; '
            f'its categories are {listed(names) or "missing"}'
        )
    used = [name for name in names if name in classes]
    if len(used) > len(set(used)):
        return f'it has two categories with the name {quoted(next(name for name in used if used.count(name) > 1))}'
    if used != list(classes):
        return (
            f'its categories are in the order {listed(used)}, in which mmdet numbers them, but metainfo.classes is '
            f'{listed(classes)}: write metainfo.classes in the order of the file'
        )
    return None


def _id_faults(entries: list[dict], name: str) -> Iterator[str]:
    ids = [entry['id'] for entry in entries]
    if len({isinstance(each, str) for each in ids}) > 1:
        text = next(each for each in ids if isinstance(each, str))
        yield f'{name} {quoted(text)} has a string as id, but others have integers'
    elif len(set(ids)) < len(ids):
        twice = next(each for each, count in Counter(ids).items() if count > 1)
        yield f'{name} {quoted(twice)} occurs twice, but an id must be unique'


def _category_faults(categories: list[dict]) -> Iterator[str]:
    for category in categories:
        if not isinstance(category.get('name'), str):
            yield _without(category, 'name', f'category {quoted(category["id"])}', 'a string')


def _image_faults(images: list[dict]) -> Iterator[str]:
    for image in images:
        name = f'image {quoted(image["id"])}'
        if not isinstance(image.get('file_name'), str):
            yield _without(image, 'file_name', name, 'a string')
        for side in ('height', 'width'):
            value = image.get(side)
            if is_number(value) and value == int(value):
                value = image[side] = int(value)
            if not is_integer(value) or value < 1:
                yield _without(image, side, name, 'a positive integer')
                return  # the number of pixels below cannot be computed
        if image['height'] * image['width'] > pixel_limit():
            yield f'{name} has the size {quoted([image["height"], image["width"]])}, more than {pixel_limit()} pixels'


def _annotation_faults(content: dict) -> Iterator[str]:
    categories = {category['id'] for category in content.get('categories', ())}
    images = content.get('images', ())
    id_types = {'strings' if isinstance(image['id'], str) else 'integers' for image in images}
    for annotation in content.get('annotations', ()):
        name = f'annotation {quoted(annotation["id"])}'
        image_id = annotation.get('image_id')
        if not _is_id(image_id):
            yield _without(annotation, 'image_id', name, 'the id of an image')
        elif images and ('strings' if isinstance(image_id, str) else 'integers') not in id_types:
            yield f'{name} has the image_id {quoted(image_id)}, but the ids of images are {" and ".join(id_types)}'
        if 'segments_info' in annotation:  # panoptic: each segment is an object
            yield from _segment_faults(annotation, name, categories)
        elif categories:  # files of captions have none
            yield from _object_faults(annotation, name, categories)


def _segment_faults(annotation: dict, name: str, categories: set) -> Iterator[str]:
    segments = annotation['segments_info']
    if not isinstance(segments, list) or not all(isinstance(segment, dict) for segment in segments):
        yield f'{name} has the segments_info {quoted(segments)}, but it must be a list of objects'
        return
    for segment in segments:
        if not is_integer(segment.get('id')):
            yield _without(segment, 'id', f'a segment of {name}', 'an integer')
        yield from _object_faults(segment, f'a segment of {name}', categories)


def _object_faults(entry: dict, name: str, categories: set) -> Iterator[str]:
    category, box, area = entry.get('category_id'), entry.get('bbox'), entry.get('area')
    if not _is_id(category) or category not in categories:
        yield _without(entry, 'category_id', name, f'the id of a category ({listed(sorted(categories, key=str))})')
    if not isinstance(box, list) or len(box) != 4 or has_invalid_coordinates(box):
        yield _without(entry, 'bbox', name, f'x, y, width and height as finite numbers of at most {MAX_COORDINATE}')
    if not is_number(area):
        yield _without(entry, 'area', name, 'a finite number')
    crowd = entry.setdefault('iscrowd', 0)
    if not isinstance(crowd, int) or crowd not in (0, 1):
        yield f'{name} has the iscrowd {quoted(crowd)}, but it must be 0 or 1'
    if entry.get('segmentation') is not None:
        fault = mask_fault(entry['segmentation'])
        if fault:
            yield f'the segmentation of {name} {fault}'


def _is_id(value: object) -> TypeGuard[int | str]:
    return isinstance(value, str) or (is_number(value) and value == int(value))


def _without(entry: dict, key: str, name: str, expected: str) -> str:
    if key not in entry:
        return f'{name} has no {key}, but needs {expected}'
    return f'{name} has the {key} {quoted(entry[key])}, but it must be {expected}'


def _kind(value: object) -> str:
    names = {dict: 'an object', list: 'a list', str: 'a string', bool: 'a truth value', type(None): 'null'}
    return names.get(type(value), 'a number')


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f'{" ".join(str(error).split())} ({type(error).__name__})'.strip()
