"""The checks of this folder at the places where mmengine, mmcv, Pillow and pycocotools read files.

`guard_files` replaces these functions for the rest of the process, and once. All data sets, metrics and inferencers of
the libraries read through them.
"""

import functools
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import PIL.Image
from mmengine.fileio import LocalBackend, register_handler

from ..errors import DataError
from .annotation_formats import CheckedPickles, SafeYaml
from .coco_files import read_coco
from .images import check_image, check_regular_file, pixel_limit
from .last_read import set_last_read
from .masks import mask_fault


def guard_files() -> None:
    if hasattr(LocalBackend.get, '__wrapped__'):
        return
    LocalBackend.get = _checking(LocalBackend.get, _check_bytes)
    LocalBackend.get_text = _checking(LocalBackend.get_text, check_regular_file)
    LocalBackend.get_local_path = _checking(LocalBackend.get_local_path, check_regular_file)
    PIL.Image.MAX_IMAGE_PIXELS = pixel_limit() // 2  # Pillow warns beyond it, and refuses beyond twice as many
    register_handler(['pkl', 'pickle'])(CheckedPickles)
    register_handler(['yml', 'yaml'])(SafeYaml)
    if find_spec('pycocotools') is not None:
        _guard_pycocotools()


def _check_bytes(path: str | Path) -> None:
    """What mmengine reads as bytes is a pickle, which may be larger than any image, or an image."""
    is_pickle = str(path).endswith(('.pkl', '.pickle'))
    check_regular_file(path) if is_pickle else check_image(path)


def _checking(read: Callable, check: Callable) -> Callable:
    @functools.wraps(read)
    def checked(self: LocalBackend, filepath: Any, *args, **kwargs) -> Any:
        check(filepath)
        set_last_read(filepath)
        return read(self, filepath, *args, **kwargs)

    return checked


def _guard_pycocotools() -> None:
    from pycocotools import mask
    from pycocotools.coco import COCO

    original_init = COCO.__init__

    @functools.wraps(original_init)
    def init(self: COCO, annotation_file: Any = None) -> None:
        original_init(self)
        self.annotation_file = annotation_file
        if annotation_file is None:
            return
        self.dataset = read_coco(annotation_file)
        try:
            self.createIndex()
        except (KeyError, TypeError, AttributeError, ValueError) as error:  # of COCOPanoptic, and of other classes
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

    COCO.__init__ = init
    mask.frPyObjects, mask.decode = checking_masks(mask.frPyObjects), checking_masks(mask.decode)


def _fault_of_one(mask: Any) -> str | None:
    return mask_fault(mask if isinstance(mask, dict) else [mask])
