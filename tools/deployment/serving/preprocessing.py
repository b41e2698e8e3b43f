"""Prepares an image as the test pipeline of a config does, from the description in an exported file.

The results equal those of mmcv and mmpretrain, because the same functions of OpenCV and Pillow compute them.
"""

from typing import Any

import cv2
import numpy as np
from PIL import Image

INTERPOLATION = {
    'nearest': cv2.INTER_NEAREST,
    'bilinear': cv2.INTER_LINEAR,
    'bicubic': cv2.INTER_CUBIC,
    'area': cv2.INTER_AREA,
    'lanczos': cv2.INTER_LANCZOS4,
}


class ImageError(ValueError):
    """An image that cannot be processed.

    Attributes:
        status: the status of HTTP.
    """

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


def check_pixels(what: str, width: int, height: int, limit: int) -> None:
    if width * height > limit:
        raise ImageError(413, f'{what} {width} x {height} pixels; the limit is {limit} pixels.')


def resize(image: np.ndarray, steps: list[dict[str, Any]], max_pixels: int) -> np.ndarray:
    """Applies the transforms Resize, ResizeEdge and CenterCrop to an image (height, width, 3), uint8.

    Raises:
        ImageError: the resized image would have more pixels than `max_pixels`, or not one.
    """
    for step in steps:
        height, width = image.shape[:2]
        if step['type'] == 'CenterCrop':
            image = _crop(image, step['crop_size'])
            continue
        new = _edge_size(step, width, height) if step['type'] == 'ResizeEdge' else _size(step, width, height)
        if 0 in new:
            raise ImageError(422, f'The image of {width} x {height} pixels is too narrow.')
        check_pixels('Resized as for the model, the image has', *new, max_pixels)
        interpolation = step.get('interpolation', 'bilinear')
        if step.get('backend') == 'pillow':
            image = np.asarray(Image.fromarray(image).resize(new, Image.Resampling[interpolation.upper()]))
        else:
            image = cv2.resize(image, new, interpolation=INTERPOLATION[interpolation])
    return image


def pad(image: np.ndarray, padding: dict[str, Any] | None) -> np.ndarray:
    """Pads an RGB image (height, width, 3), float32, at the right and at the bottom."""
    if padding is None:
        return image
    height, width = image.shape[:2]
    if padding['size']:
        new = max(height, padding['size'][0]), max(width, padding['size'][1])
    else:
        new = tuple(-(-n // padding['divisor']) * padding['divisor'] for n in (height, width))
    padded = np.empty((*new, 3), np.float32)
    padded[:] = padding['values']
    padded[:height, :width] = image
    return padded


def _crop(image: np.ndarray, size: int | list[int]) -> np.ndarray:
    height, width = image.shape[:2]
    new_width, new_height = (size, size) if isinstance(size, int) else size
    top, left = max(0, round((height - new_height) / 2)), max(0, round((width - new_width) / 2))
    return image[top : top + new_height, left : left + new_width]


def _size(step: dict[str, Any], width: int, height: int) -> tuple[int, int]:
    """The size that mmcv's Resize gives an image."""
    if 'scale' not in step:
        factors = step['scale_factor']
        across, down = (factors, factors) if isinstance(factors, (int, float)) else factors
        scale = int(width * float(across) + 0.5), int(height * float(down) + 0.5)
    else:
        scale = step['scale']
        scale = (scale, scale) if isinstance(scale, int) else tuple(scale)
    if not step.get('keep_ratio'):
        return scale
    factor = min(max(scale) / max(height, width), min(scale) / min(height, width))
    return int(width * factor + 0.5), int(height * factor + 0.5)


def _edge_size(step: dict[str, Any], width: int, height: int) -> tuple[int, int]:
    """The size that mmpretrain's ResizeEdge gives an image."""
    edge, scale = step.get('edge', 'short'), step['scale']
    if (edge == 'short' and width < height) or (edge == 'long' and width > height) or edge == 'width':
        return scale, int(scale * height / width)
    return int(scale * width / height), scale
