"""Datasets that name the file which causes an error. Written for MMEngine 0.10.

mmdet and mmseg end with a traceback that does not name the file if an image is truncated, a mask has the wrong size or
an annotation file is invalid. Some of these errors go unnoticed. The checks themselves are in `engine/checks`.
"""

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mmengine.dataset import BaseDataset, Compose

from ..checks.annotation_formats import check_array, check_trusted, set_trust, trusts_annotations
from ..checks.channels import check_normalization
from ..checks.class_folders import folder_fault, folder_warning
from ..checks.images import check_regular_file
from ..checks.quoting import listed
from ..checks.reporting import warn
from ..checks.samples import check_map, mask_faults, sample_faults
from ..errors import DataError, raise_first
from .file_readers import install_file_readers

_original = BaseDataset.prepare_data


def install_dataset_errors() -> None:
    """Makes all datasets derived from MMEngine's BaseDataset raise `DataError`, in this process and in workers."""
    install_file_readers()
    if BaseDataset.prepare_data is _prepare_data:
        return
    setattr(BaseDataset, 'prepare_data', _prepare_data)  # noqa: B010, type checkers reject an assignment
    setattr(BaseDataset, '__init_subclass__', classmethod(_wrap))  # noqa: B010, for datasets that are imported later
    kinds: list[type] = [BaseDataset]
    while kinds:
        kind = kinds.pop()
        kinds += kind.__subclasses__()
        _wrap(kind)


def _wrap(kind: type) -> None:
    for name, wrapper in (('load_data_list', _checking_annotations), ('_get_relation_matrix', _checking_array)):
        if name in vars(kind) and not hasattr(vars(kind)[name], '__wrapped__'):
            setattr(kind, name, functools.wraps(vars(kind)[name])(wrapper(vars(kind)[name])))


class _InWorkers:
    """An attribute of each dataset. Unpickling it installs the checks in workers that are not forks."""

    def __reduce__(self) -> tuple:
        return _install_in_worker, (trusts_annotations(),)


def _install_in_worker(trust: bool) -> _InWorkers:
    set_trust(trust)
    install_dataset_errors()
    return _InWorkers()


def _checking_annotations(load: Callable[..., list]) -> Callable[..., list]:
    def load_data_list(self: Any, *args) -> list:
        self._in_workers = _InWorkers()
        file = self.ann_file or ', '.join(map(str, self.data_prefix.values())) or type(self).__name__
        if self.ann_file:
            check_regular_file(self.ann_file)
        elif getattr(self, 'with_label', False) and self.CLASSES:  # of mmpretrain: a folder per class
            if fault := folder_fault(self.img_prefix, self.CLASSES):
                raise DataError(fault)
            has_own_names = not type(self).METAINFO.get('classes')  # not those of ImageNet, whose folders are codes
            if has_own_names and (sentence := folder_warning(self.img_prefix, self.CLASSES)):
                warn(sentence)
        try:
            samples = load(self, *args)
        except DataError:
            raise
        except Exception as error:
            raise DataError(
                f'{file} cannot be read as annotations of a {type(self).__name__}: {one_line(error)}'
            ) from error
        raise_first(_annotation_faults(self, samples, file))
        return samples

    return load_data_list


def _annotation_faults(dataset: BaseDataset, samples: list, file: str) -> Iterator[str]:
    if not samples:
        suffix = getattr(dataset, 'img_suffix', None)  # of mmseg, which lists the files of a folder
        if suffix and not dataset.ann_file:
            folder = Path(dataset.data_prefix['img_path'])
            found = sorted({path.suffix for path in folder.rglob('*') if path.is_file()})
            yield f'{folder} has no image with img_suffix={suffix!r}; its files end in {listed(found) or "nothing"}'
        else:
            yield f'{file} names no image for a {type(dataset).__name__}'
        return
    transforms = getattr(dataset.pipeline, 'transforms', ())
    yield from sample_faults(samples, file, dataset.metainfo, any(getattr(t, 'with_mask', False) for t in transforms))
    if not dataset.test_mode and all(isinstance(s, dict) and s.get('instances') == [] for s in samples):
        yield f'{file} annotates no object of the classes {", ".join(dataset.metainfo["classes"])}'


def _checking_array(read: Callable) -> Callable:
    def get_relation_matrix(self: BaseDataset, hierarchy_file: str) -> Any:
        if not str(hierarchy_file).endswith('.json'):
            check_array(hierarchy_file)
        return read(self, hierarchy_file)

    return get_relation_matrix


def _prepare_data(self: BaseDataset, index: int) -> Any:
    """Does the same as `BaseDataset.prepare_data`, with `load` for the loading transforms."""
    if not isinstance(self.pipeline, Compose):  # any callable
        return _original(self, index)
    sample = self.get_data_info(index)
    for transform in self.pipeline.transforms:
        check_normalization(transform, sample)
        sample = load(transform, sample, self) if is_loading(transform) else transform(sample)
        if sample is None:
            return None
    return sample


def is_loading(transform: Callable) -> bool:
    """Whether a transform reads a file, by the naming convention of the libraries."""
    return type(transform).__name__.startswith('Load')


def load_sample(dataset: Any, index: int) -> dict | None:
    """Applies the loading transforms of a dataset's pipeline to a sample, and checks what they read."""
    pipeline = getattr(dataset, 'pipeline', None)
    sample = dataset.get_data_info(index) if isinstance(pipeline, Compose) else None
    for transform in filter(is_loading, getattr(pipeline, 'transforms', ())):
        sample = sample and load(transform, sample, dataset)
    return sample


def load(transform: Callable[[dict], dict | None], sample: dict, dataset: Any) -> dict | None:
    """Applies a loading transform, and checks what it reads.

    Raises:
        DataError: names the file.
    """
    kind = type(transform).__name__
    image, file = sample.get('img_path'), str(sample.get('seg_map_path') or getattr(dataset, 'ann_file', ''))
    if getattr(transform, 'with_mask', False):
        raise_first(mask_faults(sample, dataset.ann_file))
    if getattr(transform, 'decode_backend', None) == 'pickle':  # of mmseg's biomedical volumes
        check_trusted(str(image if kind.startswith('LoadBiomedicalImage') else file), 'a pickle')
    try:
        result = transform(sample)
    except DataError:
        raise
    except Exception as error:
        is_image = kind.startswith('LoadImage')
        what = f'{image} cannot be read as an image' if is_image else f'{file} cannot be read as annotation of {image}'
        raise DataError(f'{what}: {one_line(error)}') from error
    if result is not None and kind == 'LoadAnnotations':
        check_map(result, file, dataset.metainfo, getattr(dataset, 'ignore_index', None))  # only in mmseg
    return result


def read_image(transform: Callable[[dict], dict | None], file: str) -> Any:
    """Applies a loading transform to an image that belongs to no dataset, and returns the image as an array.

    Raises:
        DataError: names the file.
    """
    return (load(transform, dict(img_path=file), None) or {}).get('img')


def one_line(error: Exception) -> str:
    """The message of a reader's error in one line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if type(error).__module__ == 'cv2' or 'failed to load image' in str(error):  # OpenCV gives no reason
        return 'it is empty, truncated or not an image'
    text = ' '.join(str(error).split())
    return f'{text} is missing' if isinstance(error, KeyError) else f'{text} ({type(error).__name__})'.strip()
