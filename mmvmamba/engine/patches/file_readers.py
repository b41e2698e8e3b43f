"""Checks in the functions with which mmengine, Pillow and pycocotools read files.

Written for MMEngine 0.10, Pillow 10 to 13 and pycocotools 2.0. All datasets, metrics and inferencers of the libraries
read through these functions. The checks themselves are in `engine/checks`.
"""

import functools
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import PIL.Image
from mmengine.fileio import LocalBackend, register_handler

from ..checks.annotation_formats import CheckedPickles, SafeYaml
from ..checks.coco_files import category_fault, read_coco
from ..checks.images import check_image, check_regular_file, pixel_limit
from ..checks.last_read import set_last_read
from ..checks.masks import mask_fault
from ..errors import DataError


def install_file_readers() -> None:
    """Replaces the functions for the rest of the process. Further calls have no effect."""
    if hasattr(LocalBackend.get, '__wrapped__'):
        return
    LocalBackend.get = _checking(LocalBackend.get, _check_bytes)
    LocalBackend.get_text = _checking(LocalBackend.get_text, check_regular_file)
    LocalBackend.get_local_path = _checking(LocalBackend.get_local_path, check_regular_file)
    PIL.Image.MAX_IMAGE_PIXELS = pixel_limit() // 2  # Pillow warns above it, and raises above twice as many
    register_handler(['pkl', 'pickle'])(CheckedPickles)
    register_handler(['yml', 'yaml'])(SafeYaml)
    if find_spec('pycocotools') is not None:
        _replace_in_pycocotools()


def _check_bytes(path: str | Path) -> None:
    """Checks a file that mmengine reads as bytes: an image, or a pickle, which may be larger than any image."""
    is_pickle = str(path).endswith(('.pkl', '.pickle'))
    check_regular_file(path) if is_pickle else check_image(path)


def _checking(read: Callable, check: Callable) -> Callable:
    @functools.wraps(read)
    def checked(self: LocalBackend, filepath: Any, *args, **kwargs) -> Any:
        check(filepath)
        set_last_read(filepath)
        return read(self, filepath, *args, **kwargs)

    return checked


def _replace_in_pycocotools() -> None:
    from pycocotools import mask
    from pycocotools.coco import COCO

    original_init = COCO.__init__

    @functools.wraps(original_init)
    def init(self: Any, annotation_file: Any = None) -> None:
        original_init(self)
        self.annotation_file = annotation_file
        if annotation_file is None:
            return
        self.dataset = read_coco(annotation_file)
        try:
            self.createIndex()
        except (KeyError, TypeError, AttributeError, ValueError) as error:  # in subclasses, such as COCOPanoptic
            raise DataError(
                f'{annotation_file} cannot be indexed as COCO annotations: {error} ({type(error).__name__})'
            ) from error

    def checking_masks(function: Callable) -> Callable:
        @functools.wraps(function)
        def checked(masks: Any, *size) -> Any:
            single = isinstance(masks, dict) or (len(masks) and isinstance(masks[0], (int, float)))
            fault = mask_fault(masks) if single else next(filter(None, map(_fault_of_one, masks)), None)
            if fault:
                raise DataError(f'a mask {fault}')
            return function(masks, *size)

        return checked

    original_get_cat_ids = COCO.getCatIds

    @functools.wraps(original_get_cat_ids)
    def get_cat_ids(self: Any, catNms: Any = (), *others, **kwargs) -> list:
        fault = category_fault(self.dataset, catNms) if len(catNms) else None
        if fault:
            raise DataError(f'{self.annotation_file}: {fault}')
        return original_get_cat_ids(self, catNms, *others, **kwargs)

    COCO.__init__, COCO.getCatIds = init, get_cat_ids
    mask.frPyObjects, mask.decode = checking_masks(mask.frPyObjects), checking_masks(mask.decode)


def _fault_of_one(mask: Any) -> str | None:
    return mask_fault(mask if isinstance(mask, dict) else [mask])
