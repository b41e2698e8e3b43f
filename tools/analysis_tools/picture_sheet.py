"""Puts some of the pictures of tools/test.py --show-dir on one sheet."""

from argparse import ArgumentParser
from pathlib import Path

from PIL import Image, ImageOps

from mmvmamba.engine.errors import LaunchError
from mmvmamba.engine.tool_session import tool_session

GAP = 6  # pixels around each picture


def main(argv=None):
    parser = ArgumentParser(description=__doc__)
    parser.add_argument('folder', type=Path, help='folder of the pictures, searched with its subfolders')
    parser.add_argument('--out', type=Path, default='sheet.png', help='default: %(default)s')
    parser.add_argument('--count', type=int, default=20, help='pictures on the sheet (default: %(default)s)')
    parser.add_argument('--columns', type=int, default=5, help='pictures in a row (default: %(default)s)')
    args = parser.parse_args(argv)
    with tool_session(args):
        files = sorted(args.folder.rglob('*.png'))
        if not files:
            raise LaunchError(f'{args.folder} contains no PNG file')
        sheet(spread(files, args.count), args.columns).save(args.out)
        print(f'Written to {args.out}')


def spread(files: list[Path], count: int) -> list[Path]:
    """Returns `count` files at equal distances in the list."""
    count = min(count, len(files))
    return [files[(2 * number + 1) * len(files) // (2 * count)] for number in range(count)]


def sheet(files: list[Path], columns: int) -> Image.Image:
    pictures = [Image.open(file).convert('RGB') for file in files]
    width, height = (max(picture.size[axis] for picture in pictures) for axis in (0, 1))
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    whole = Image.new('RGB', (columns * (width + GAP) + GAP, rows * (height + GAP) + GAP), 'white')
    for number, picture in enumerate(pictures):
        row, column = divmod(number, columns)
        cell = ImageOps.pad(picture, (width, height), color='white')
        whole.paste(cell, (GAP + column * (width + GAP), GAP + row * (height + GAP)))
    return whole


if __name__ == '__main__':
    main()
