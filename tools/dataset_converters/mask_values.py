"""Converts masks in colours, or with other values than 0, 1, 2, ..., to class indices.

    python tools/dataset_converters/mask_values.py SOURCE OUT --values 0,0,0 255,0,0 0,255,0    # RGB masks
    python tools/dataset_converters/mask_values.py SOURCE OUT --values 0 255                    # values 0 and 255

The first value becomes 0, the second 1, and so on. Pixels with a value of --ignore become 255. Any other value ends the
conversion with an error. The masks are written as PNG files with the same names. They must be stored without loss:
JPEG changes colours.
"""

import argparse
from pathlib import Path

import numpy as np
from mmengine.utils import track_iter_progress
from PIL import Image

from mmvmamba.engine.checks.images import check_image
from mmvmamba.engine.errors import DataError, LaunchError
from mmvmamba.engine.tool_session import tool_session

SUFFIXES = {'.bmp', '.gif', '.png', '.tif', '.tiff', '.webp'}
IGNORED = 255


def parse_value(text: str) -> tuple[int, ...]:
    """Parses `255` or `255,0,0`."""
    value = tuple(int(number) for number in text.split(','))
    if len(value) not in (1, 3) or not all(0 <= number <= 65535 for number in value):
        raise argparse.ArgumentTypeError(f'{text} is neither a value such as 255 nor a colour such as 255,0,0')
    return value


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('source', type=Path, help='folder with masks; subfolders are included')
    parser.add_argument('out_dir', type=Path, help='new folder for the converted masks')
    parser.add_argument('--values', type=parse_value, nargs='+', required=True, help='values or colours, by class')
    parser.add_argument('--ignore', type=parse_value, nargs='*', default=[], help='values or colours to ignore')
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    with tool_session(args):
        if len({len(value) for value in (*args.values, *args.ignore)}) > 1:
            raise LaunchError('--values and --ignore mix values and colours: a mask has either')
        if len(args.values) > IGNORED or len({*args.values, *args.ignore}) < len(args.values) + len(args.ignore):
            raise LaunchError('--values and --ignore must name at most 255 classes, and each value once')
        if args.out_dir.is_dir() and any(args.out_dir.iterdir()):
            raise LaunchError(f'{args.out_dir} is not empty: choose a new folder, so that no mask is overwritten')
        files = sorted(file for file in args.source.rglob('*') if file.suffix.lower() in SUFFIXES)
        if not files:
            raise LaunchError(f'{args.source} contains no mask ({", ".join(sorted(SUFFIXES))})')
        for file in track_iter_progress(files):
            target = args.out_dir / file.relative_to(args.source).with_suffix('.png')
            target.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(convert(file, args.values, args.ignore)).save(target)
    print(f'\n{len(files)} masks written to {args.out_dir}')


def convert(file: Path, values: list[tuple[int, ...]], ignored: list[tuple[int, ...]]) -> np.ndarray:
    """Returns the class indices of a mask, (height, width) uint8."""
    check_image(file)
    try:
        with Image.open(file) as image:
            # a palette image holds indices: its colours are used for --values in colours only
            pixels = np.asarray(image.convert('RGB') if len(values[0]) == 3 else image)
    except OSError as error:
        raise DataError(f'{file} cannot be read as an image: {error}') from error
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.shape[2] != len(values[0]):
        raise DataError(f'{file} has {pixels.shape[2]} channels: give --values as colours, such as 0,0,0 255,0,0')
    result, found = np.zeros(pixels.shape[:2], np.uint8), np.zeros(pixels.shape[:2], bool)
    for index, value in [*enumerate(values), *((IGNORED, value) for value in ignored)]:
        match = (pixels == value).all(axis=2)
        result[match], found = index, found | match
    if not found.all():
        other = ','.join(map(str, pixels[~found][0].tolist()))
        expected = ' '.join(','.join(map(str, value)) for value in values)
        raise DataError(f'{file} has the value {other}, but --values is {expected}: add it to --values or --ignore')
    return result


if __name__ == '__main__':
    main()
