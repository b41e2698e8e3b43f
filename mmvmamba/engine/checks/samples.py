"""What a data set has loaded from its annotation file: labels, boxes, and whether there are masks."""

from collections.abc import Mapping, Sequence

from ..errors import DataError
from .masks import FARTHEST, far_numbers, is_integer, mask_fault
from .quoting import listed, quoted


def check_samples(samples: list, file: str, metainfo: Mapping, needs_masks: bool) -> None:
    """Checks the entries of a data set before the first is used.

    Args:
        samples: as `BaseDataset.load_data_list` returns them.
        file: annotation file, named in errors.
        metainfo: of the data set.
        needs_masks: whether its pipeline reads masks of objects.

    Raises:
        DataError: names the file, the image, what was found and what was expected.
    """
    classes = metainfo.get('classes') or ()
    samples = [sample for sample in samples if isinstance(sample, dict)]
    are_labelled = any('gt_label' in sample for sample in samples)
    for sample in samples:
        if are_labelled:
            if 'gt_label' not in sample:
                raise DataError(f'{file}: {quoted(sample.get("img_path"))} has no gt_label, but other images have one')
            labels = sample['gt_label']
            labels = labels.tolist() if hasattr(labels, 'tolist') else labels
            _check_labels(labels if isinstance(labels, (list, tuple)) else [labels], classes, file, sample)
        for number, instance in enumerate(_objects(sample, file)):
            where = f'{file}: object {number} of {quoted(sample.get("img_path"))}'
            box = instance.get('bbox')
            if box is not None and (not hasattr(box, '__len__') or len(box) != 4 or far_numbers(box)):
                raise DataError(
                    f'{where} has the box {quoted(box)}, but a box must be 4 finite numbers of at most {FARTHEST}'
                )
            if 'bbox_label' in instance:
                _check_labels([instance['bbox_label']], classes, file, sample)
            mask = instance.get('mask')
            if needs_masks and (mask is None or isinstance(mask, (list, dict)) and not mask):
                raise DataError(
                    f'{where} (box {quoted(box)}) has no segmentation in the annotation file, but '
                    f'LoadAnnotations(with_mask=True) of the pipeline reads one for each object'
                )


def check_masks(sample: dict, file: str) -> None:
    """Checks the masks of one image, whose size is known now.

    Raises:
        DataError: names the file, the image, what was found and what was expected.
    """
    shape = sample.get('ori_shape')
    for number, instance in enumerate(sample.get('instances', ())):
        where = f'{file}: object {number} of {quoted(sample.get("img_path"))}'
        mask = instance.get('mask')
        if mask is None:
            raise DataError(f'{where} has no segmentation (mask), but LoadAnnotations(with_mask=True) reads one')
        fault = mask_fault(mask)
        if fault:
            raise DataError(f'the mask of {where} {fault}')
        if isinstance(mask, dict) and shape and tuple(mask['size']) != tuple(shape):
            check_size(f'a mask in {file}', mask['size'], sample)


def check_map(sample: dict, file: str, metainfo: Mapping, ignore_index: int | None) -> None:
    """Checks a map of classes: its size, and, if `ignore_index` is given, its values.

    Raises:
        DataError: names the file, what was found and what was expected.
    """
    labels, classes = sample.get('gt_seg_map'), metainfo.get('classes')
    if labels is None:
        return
    if labels.shape != sample.get('ori_shape', labels.shape):
        check_size(file, labels.shape, sample)
    if not classes or ignore_index is None:
        return
    unknown = labels[(labels >= len(classes)) & (labels != ignore_index)]
    if unknown.size:
        raise DataError(
            f'{file} has the class {unknown.flat[0]}, but the data set has the classes 0 to {len(classes) - 1}, and '
            f'{ignore_index} for none'
        )


def check_size(what: str, shape: Sequence[int], sample: dict) -> None:
    mask, image = (' x '.join(map(str, size)) for size in (shape, sample['ori_shape']))
    raise DataError(f'{what} is {mask} pixels, the image {sample.get("img_path")} {image}')


def _objects(sample: dict, file: str) -> list[dict]:
    objects = sample.get('instances', [])
    if not isinstance(objects, list) or not all(isinstance(each, dict) for each in objects):
        raise DataError(
            f'{file}: instances of {quoted(sample.get("img_path"))} is {quoted(objects)}, but must be a list of objects'
        )
    return objects


def _check_labels(labels: Sequence, classes: Sequence[str], file: str, sample: dict) -> None:
    for label in labels:
        if not (is_integer(label) or isinstance(label, bool)) or label < 0 or (classes and label >= len(classes)):
            expected = f'0 to {len(classes) - 1} ({listed(classes)})' if classes else '0 or more'
            raise DataError(
                f'{file}: {quoted(sample.get("img_path"))} has the label {quoted(label)}, but labels must be integers, '
                f'{expected}'
            )
