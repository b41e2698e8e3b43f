"""Data sets that name the file which they cannot use.

An image that is cut short, a mask of another size or an annotation file that is none ends in mmdet and mmseg with a
traceback that does not say which of the files it was, or not at all. What is checked is in the folder `checks`.
"""

import functools
import sys
from collections.abc import Callable
from typing import Any

from mmengine.dataset import BaseDataset, Compose

from .checks.annotation_formats import check_array, check_trusted, set_trust, trusts_annotations
from .checks.coco_files import category_fault
from .checks.guards import guard_files
from .checks.images import check_regular_file
from .checks.samples import check_map, check_masks, check_samples
from .errors import DataError

_original = BaseDataset.prepare_data


def name_files() -> None:
    """Makes all data sets of MMEngine's kind that are imported so far raise `DataError`, here and in workers."""
    guard_files()
    BaseDataset.prepare_data = _prepare_data
    waiting = [BaseDataset]
    while waiting:
        kind = waiting.pop()
        waiting += kind.__subclasses__()
        _wrap(kind, 'load_data_list', _naming_annotations)
        _wrap(kind, '_get_relation_matrix', _checking_array)
    if 'mmdet.datasets.api_wrappers' in sys.modules:
        _wrap(sys.modules['mmdet.datasets.api_wrappers'].COCO, 'get_cat_ids', _checking_categories)


def _wrap(kind: type, name: str, wrapper: Callable[[Callable], Callable]) -> None:
    if name in vars(kind) and not hasattr(vars(kind)[name], '__wrapped__'):
        setattr(kind, name, functools.wraps(vars(kind)[name])(wrapper(vars(kind)[name])))


class _InWorkers:
    """Part of each data set, so that a worker that is not a fork of this process names files, too."""

    def __reduce__(self) -> tuple:
        return _name_files_in_worker, (trusts_annotations(),)


def _name_files_in_worker(trust: bool) -> _InWorkers:
    set_trust(trust)
    name_files()
    return _InWorkers()


def _naming_annotations(load: Callable[[BaseDataset], list]) -> Callable[[BaseDataset], list]:
    def load_data_list(self: BaseDataset, *args) -> list:
        self._in_workers = _InWorkers()
        file = self.ann_file or ', '.join(map(str, self.data_prefix.values())) or type(self).__name__
        if self.ann_file:
            check_regular_file(self.ann_file)
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
        check_samples(samples, file, self.metainfo, _reads_masks(self.pipeline))
        if not self.test_mode and all(isinstance(s, dict) and s.get('instances') == [] for s in samples):
            raise DataError(f'{file} annotates no object of the classes {", ".join(self.metainfo["classes"])}')
        return samples

    return load_data_list


def _reads_masks(pipeline: Any) -> bool:
    return any(getattr(transform, 'with_mask', False) for transform in getattr(pipeline, 'transforms', ()))


def _checking_array(read: Callable) -> Callable:
    def get_relation_matrix(self: BaseDataset, hierarchy_file: str) -> Any:
        if not str(hierarchy_file).endswith('.json'):
            check_array(hierarchy_file)
        return read(self, hierarchy_file)

    return get_relation_matrix


def _checking_categories(get_cat_ids: Callable) -> Callable:
    def checked(self: Any, cat_names: Any = (), *others) -> list:
        fault = category_fault(self.dataset, cat_names) if len(cat_names) else None
        if fault:
            raise DataError(f'{self.annotation_file}: {fault}')
        return get_cat_ids(self, cat_names, *others)

    return checked


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
    if getattr(transform, 'with_mask', False):
        check_masks(sample, dataset.ann_file)
    if getattr(transform, 'decode_backend', None) == 'pickle':  # of mmseg's biomedical volumes
        check_trusted(image if kind.startswith('LoadBiomedicalImage') else file, 'a pickle')
    try:
        sample = transform(sample)
    except DataError:
        raise
    except Exception as error:
        is_image = kind.startswith('LoadImage')
        what = f'{image} cannot be read as an image' if is_image else f'{file} cannot be read as annotation of {image}'
        raise DataError(f'{what}: {_said(error)}') from error
    if sample is not None and kind == 'LoadAnnotations':
        check_map(sample, file, dataset.metainfo, getattr(dataset, 'ignore_index', None))  # mmseg's have one
    return sample


def _said(error: Exception) -> str:
    """An error of a reader in one line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if type(error).__module__ == 'cv2' or 'failed to load image' in str(error):  # OpenCV says no more
        return 'it is empty, cut short or no image'
    text = ' '.join(str(error).split())
    return f'there is no {text}' if isinstance(error, KeyError) else f'{text} ({type(error).__name__})'.strip()
