"""Pictures with titles, next to each other. All pictures are (height, width, 3), uint8, BGR."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

SMALLEST = 192  # smaller images are enlarged until their shorter side has this many pixels
GAP = 8  # pixels between two panels
WHITE, BLACK, RED = (255, 255, 255), (0, 0, 0), (200, 0, 0)


def titled(image: np.ndarray, lines: Sequence[str], alarm: bool = False) -> np.ndarray:
    """Returns a picture with lines of text above it, in red if `alarm` is True. Small images are enlarged."""
    scale = SMALLEST / min(image.shape[:2])
    if scale > 1:
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    width = image.shape[1]
    size = int(np.clip(width / 32, 15, 40))
    bar = Image.new('RGB', (width, len(lines) * (size + 6) + 6), WHITE)
    draw = ImageDraw.Draw(bar)
    for number, line in enumerate(lines):
        draw.text((4, 4 + number * (size + 6)), _cut(line, width - 8, size), RED if alarm else BLACK, _font(size))
    return np.concatenate([np.asarray(bar)[..., ::-1], image])


def arranged(panels: Sequence[np.ndarray]) -> np.ndarray:
    """Returns panels of equal size side by side, or below each other if they are more than twice as wide as high."""
    height, width = panels[0].shape[:2]
    axis = 0 if width > 2 * height else 1
    gap = np.full((GAP, width, 3) if axis == 0 else (height, GAP, 3), 255, np.uint8)
    parts = [part for panel in panels for part in (gap, panel)]
    return np.concatenate(parts[1:], axis)


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), 'fonts/ttf/DejaVuSans.ttf')), size)


def _cut(line: str, width: int, size: int) -> str:
    """Shortens a line to a width in pixels."""
    if _font(size).getlength(line) <= width:
        return line
    while line and _font(size).getlength(f'{line}…') > width:
        line = line[:-1]
    return f'{line}…'
