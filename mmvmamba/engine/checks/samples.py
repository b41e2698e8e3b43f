"""Checks what a dataset has loaded from its annotation file: labels, boxes, and masks."""

from collections.abc import Iterator, Mapping, Sequence

from ..errors import DataError
from .masks import MAX_COORDINATE, has_invalid_coordinates, is_integer, mask_fault
from .quoting import listed, quoted


def sample_faults(samples: list, file: str, metainfo: Mapping, needs_masks: bool) -> Iterator[str]:
    """Yields a sentence for each fault: the file, the image, what was found and what was expected.

    Args:
        samples: entries of a dataset, as `BaseDataset.load_data_list` returns them.
        file: annotation file, named in the sentences.
        metainfo: of the dataset.
        needs_masks: whether its pipeline reads masks of objects.
    """
    classes = metainfo.get('classes') or ()
    samples = [sample for sample in samples if isinstance(sample, dict)]
    are_labelled = any('gt_label' in sample for sample in samples)
    for sample in samples:
        if are_labelled:
            if 'gt_label' not in sample:
                yield f'{file}: {quoted(sample.get("img_path"))} has no gt_label, but other images have one'
                continue
            labels = sample['gt_label']
            labels = labels.tolist() if hasattr(labels, 'tolist') else labels
            yield from _label_faults(labels if isinstance(labels, (list, tuple)) else [labels], classes, file, sample)
        objects = sample.get('instances', [])
        if not isinstance(objects, list) or not all(isinstance(each, dict) for each in objects):
            name = quoted(sample.get('img_path'))
            yield f'{file}: instances of {name} is {quoted(objects)}, but must be a list of objects'
            continue
        for number, instance in enumerate(objects):
            where = f'{file}: object {number} of {quoted(sample.get("img_path"))}'
            box = instance.get('bbox')
            if box is not None and (not hasattr(box, '__len__') or len(box) != 4 or has_invalid_coordinates(box)):
                expected = f'4 finite numbers of at most {MAX_COORDINATE}'
                yield f'{where} has the box {quoted(box)}, but a box must be {expected}'
            if 'bbox_label' in instance:
                yield from _label_faults([instance['bbox_label']], classes, file, sample)
            mask = instance.get('mask')
            if needs_masks and (mask is None or isinstance(mask, (list, dict)) and not mask):
                yield (
                    f'{where} (box {quoted(box)}) has no segmentation in the annotation file, but '
                    'LoadAnnotations(with_mask=True) of the pipeline reads one for each object'
                )


def mask_faults(sample: dict, file: str) -> Iterator[str]:
    """Yields a sentence for each fault in the masks of one image, whose size is known now."""
    shape = sample.get('ori_shape')
    for number, instance in enumerate(sample.get('instances', ())):
        where = f'{file}: object {number} of {quoted(sample.get("img_path"))}'
        mask = instance.get('mask')
        if mask is None:
            yield f'{where} has no segmentation (mask), but LoadAnnotations(with_mask=True) reads one'
            continue
        fault = mask_fault(mask)
        if fault:
            yield f'the mask of {where} {fault}'
        elif isinstance(mask, dict) and shape and tuple(mask['size']) != tuple(shape):
            yield _wrong_size(f'a mask in {file}', mask['size'], sample)


def check_map(sample: dict, file: str, metainfo: Mapping, ignore_index: int | None) -> None:
    """Checks the size of a label map and, if `ignore_index` is given, its values.

    Raises:
        DataError: names the file, what was found and what was expected.
    """
    labels, classes = sample.get('gt_seg_map'), metainfo.get('classes')
    if labels is None:
        return
    if labels.ndim != 2:
        raise DataError(
            f'{file} has {labels.shape[-1]} channels, but a mask must have one, with a class index in each '
            'pixel: convert colours with tools/dataset_converters/mask_values.py'
        )
    if labels.shape != sample.get('ori_shape', labels.shape):
        raise DataError(_wrong_size(file, labels.shape, sample))
    if not classes or ignore_index is None:
        return
    unknown = labels[(labels >= len(classes)) & (labels != ignore_index)]
    if unknown.size:
        raise DataError(
            f'{file} has the class {unknown.flat[0]}, but the dataset has the classes 0 to {len(classes) - 1}, and '
            f'{ignore_index} for ignored pixels'
        )


def _wrong_size(what: str, shape: Sequence[int], sample: dict) -> str:
    mask, image = (' x '.join(map(str, size)) for size in (shape, sample['ori_shape']))
    return f'{what} is {mask} pixels, but the image {sample.get("img_path")} is {image}'


def _label_faults(labels: Sequence, classes: Sequence[str], file: str, sample: dict) -> Iterator[str]:
    for label in labels:
        if not (is_integer(label) or isinstance(label, bool)) or label < 0 or (classes and label >= len(classes)):
            expected = f'0 to {len(classes) - 1} ({listed(classes)})' if classes else '0 or more'
            name = quoted(sample.get('img_path'))
            yield f'{file}: {name} has the label {quoted(label)}, but labels must be integers, {expected}'
