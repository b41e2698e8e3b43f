"""Data sets that name the file which they cannot use.

An image that is cut short, a mask of another size or an annotation file that is none ends in mmdet and mmseg with a
traceback that does not say which of the files it was, or not at all.
"""

import functools
from collections.abc import Callable
from typing import Any

from mmengine.dataset import BaseDataset, Compose

from .errors import DataError

_original = BaseDataset.prepare_data


def name_files() -> None:
    """Makes all data sets of MMEngine's kind that are imported so far raise `DataError`, here and in workers."""
    BaseDataset.prepare_data = _prepare_data
    waiting = [BaseDataset]
    while waiting:
        kind = waiting.pop()
        waiting += kind.__subclasses__()
        if 'load_data_list' in vars(kind) and not hasattr(kind.load_data_list, '__wrapped__'):
            kind.load_data_list = _naming_annotations(kind.load_data_list)


def _naming_annotations(load: Callable[[BaseDataset], list]) -> Callable[[BaseDataset], list]:
    @functools.wraps(load)
    def load_data_list(self: BaseDataset, *args) -> list:
        file = self.ann_file or ', '.join(map(str, self.data_prefix.values())) or type(self).__name__
        try:
            samples = load(self, *args)
        except DataError:
            raise
        except Exception as error:
            raise DataError(
                f'{file} cannot be read as annotations of a {type(self).__name__}: {_said(error)}'
            ) from error
        if not samples:
            raise DataError(f'{file} names no image for a {type(self).__name__}')
        if not self.test_mode and all(isinstance(s, dict) and s.get('instances') == [] for s in samples):
            raise DataError(f'{file} annotates no object of the classes {", ".join(self.metainfo["classes"])}')
        return samples

    return load_data_list


def _prepare_data(self: BaseDataset, index: int) -> Any:
    """As `BaseDataset.prepare_data`, with a look at what is loaded."""
    if not isinstance(self.pipeline, Compose):  # any callable
        return _original(self, index)
    sample = self.get_data_info(index)
    for transform in self.pipeline.transforms:
        is_loading = type(transform).__name__.startswith('Load')
        sample = _load(transform, sample, self) if is_loading else transform(sample)
        if sample is None:
            return None
    return sample


def _load(transform: Callable[[dict], dict | None], sample: dict, dataset: BaseDataset) -> dict | None:
    kind = type(transform).__name__
    image, file = sample.get('img_path'), sample.get('seg_map_path') or dataset.ann_file
    if kind == 'LoadAnnotations' and getattr(transform, 'with_mask', False):
        _check_masks(sample, file)
    try:
        sample = transform(sample)
    except Exception as error:
        is_image = kind.startswith('LoadImage')
        what = f'{image} cannot be read as an image' if is_image else f'{file} cannot be read as annotation of {image}'
        raise DataError(f'{what}: {_said(error)}') from error
    if sample is not None and kind == 'LoadAnnotations':
        _check_map(sample, file, dataset)
    return sample


def _check_masks(sample: dict, file: str) -> None:
    """Whether masks as run lengths are as large as the image."""
    for instance in sample.get('instances', ()):
        mask = instance.get('mask')
        if isinstance(mask, dict) and tuple(mask['size']) != sample.get('ori_shape', tuple(mask['size'])):
            _refuse_size(f'a mask in {file}', mask['size'], sample)


def _check_map(sample: dict, file: str, dataset: BaseDataset) -> None:
    """Whether a map of classes is as large as the image and has only classes that there are."""
    labels, classes = sample.get('gt_seg_map'), dataset.metainfo.get('classes')
    if labels is None:
        return
    if labels.shape != sample.get('ori_shape', labels.shape):
        _refuse_size(file, labels.shape, sample)
    if not classes or not hasattr(dataset, 'ignore_index'):  # mmseg's have one
        return
    unknown = labels[(labels >= len(classes)) & (labels != dataset.ignore_index)]
    if unknown.size:
        raise DataError(
            f'{file} has the class {unknown.flat[0]}, but the data set has the classes 0 to {len(classes) - 1}, and '
            f'{dataset.ignore_index} for none'
        )


def _refuse_size(what: str, shape: tuple[int, ...], sample: dict) -> None:
    mask, image = (' x '.join(map(str, size)) for size in (shape, sample['ori_shape']))
    raise DataError(f'{what} is {mask} pixels, the image {sample.get("img_path")} {image}')


def _said(error: Exception) -> str:
    """An error of a reader in one line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if type(error).__module__ == 'cv2' or 'failed to load image' in str(error):  # OpenCV says no more
        return 'it is empty, cut short or no image'
    text = ' '.join(str(error).split())
    return f'there is no {text}' if isinstance(error, KeyError) else f'{text} ({type(error).__name__})'.strip()
