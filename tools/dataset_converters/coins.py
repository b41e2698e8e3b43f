"""Creates a small, real dataset for instance and semantic segmentation from one photograph.

The photograph is scikit-image's ``coins.png``: 24 Greek coins in four rows on a dark, unevenly lit background. The file
is part of the installed package, so nothing is downloaded. It is small (384 x 303) and is enlarged by a factor of two,
so that figures with predictions are legible. The masks are computed with the segmentation functions of scikit-image.
``overview.png`` in the output folder shows them on the photograph for visual inspection.

The two upper rows (12 coins, with the most uneven light) are used for training. The two lower rows (12 coins) are held
out for validation.

Training tiles overlap, so a coin appears at several positions and is often cut by the edge of a tile, like objects in
natural images. The visible part is annotated as an instance if it is at least half of the coin, else as a region to
ignore (COCO's ``iscrowd``). The validation part is a single tile that contains each of its coins once and uncut.

Output, in the layouts of COCO (detection) and ADE20K (segmentation; 0 is background, 1 is coin)::

    data/coins/
        overview.png                        training coins blue, held-out coins orange
        images/{training,validation}/*.png
        annotations/{training,validation}/*.png
        annotations/instances_{training,validation}.json
"""

import argparse
import json
import signal
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.ndimage import binary_fill_holes
from skimage import data, filters, io, measure, morphology, segmentation, transform, util

NUM_COINS = 24
ENLARGE = 2
# All lengths below are pixels of the enlarged photograph, 768 x 606.
SPLIT_ROW = 300  # training above, validation below; runs between two rows of coins
TILE = 256  # side of a training tile; a coin is 75 to 130 wide
STRIDE = 64  # maximum distance between two neighbouring training tiles
MIN_VISIBLE = 0.5  # boxes around smaller parts of a coin are not useful for training


class Tile(NamedTuple):
    """A rectangle of the photograph, in pixels; bottom and right are exclusive."""

    top: int
    left: int
    bottom: int
    right: int

    def cut(self, image: np.ndarray) -> np.ndarray:
        return image[self.top : self.bottom, self.left : self.right]


def load_photo() -> np.ndarray:
    """Returns the enlarged photograph, (606, 768) uint8."""
    photo = transform.rescale(data.coins(), ENLARGE, order=3)  # cubic
    return util.img_as_ubyte(photo.clip(0, 1))


def segment_coins(photo: np.ndarray) -> np.ndarray:
    """Labels the coins of the photograph: (H, W) uint8 -> (H, W) int; 0 is background, 1 to 24 are the coins."""
    # A watershed of the gradient finds the rims despite the uneven light. The seeds are pixels that are certainly
    # background (dark) or certainly coin (bright).
    seeds = np.zeros(photo.shape, dtype=np.int32)
    seeds[photo < 30] = 1
    seeds[photo > 150] = 2
    coins = binary_fill_holes(segmentation.watershed(filters.sobel(photo), seeds) == 2)
    coins = morphology.closing(coins, morphology.disk(6))  # adds dark notches at the rims to the coins
    coins = morphology.opening(coins, morphology.disk(10))  # removes spikes at the rims and specks of dust
    labels = np.asarray(measure.label(coins))
    if labels.max() != NUM_COINS:
        raise RuntimeError(
            f'Found {labels.max()} coins instead of {NUM_COINS}: this is not the photograph of '
            'skimage.data.coins(), or this version of scikit-image segments it differently.'
        )
    return labels


def training_tiles(shape: tuple) -> list:
    """Returns overlapping squares that cover the part above the split."""
    return [Tile(top, left, top + TILE, left + TILE) for top in _starts(SPLIT_ROW) for left in _starts(shape[1])]


def validation_tiles(shape: tuple) -> list:
    """Returns the part below the split as a single tile."""
    return [Tile(SPLIT_ROW, 0, *shape)]


def _starts(length: int) -> list:
    """Returns evenly spaced start positions, at most STRIDE apart, of tiles that cover [0, length)."""
    last = length - TILE
    return np.linspace(0, last, -(-last // STRIDE) + 1).round().astype(int).tolist()


def check_split(labels: np.ndarray, training: list, validation: list) -> None:
    """Raises an error if a coin is in both parts, is missing, or is cut or repeated in the validation part."""

    def coins(tile):
        return [int(i) for i in np.unique(tile.cut(labels)) if i]

    seen = {i for tile in training for i in coins(tile)}
    held_out = [i for tile in validation for i in coins(tile)]
    if seen & set(held_out):
        raise RuntimeError(f'Coins {sorted(seen & set(held_out))} are in a training tile and in a validation tile.')
    if seen | set(held_out) != set(range(1, NUM_COINS + 1)):
        raise RuntimeError('Some coins are in no tile.')
    if len(held_out) != len(set(held_out)):
        raise RuntimeError('A coin is in two validation tiles, or is cut by the edge between them.')


def encode_rle(mask: np.ndarray) -> dict:
    """Encodes a binary mask as COCO's uncompressed RLE: alternating runs of 0 and 1, column by column, 0 first."""
    changes = np.flatnonzero(np.diff(mask.ravel(order='F').astype(np.int8), prepend=0))
    return dict(size=list(mask.shape), counts=np.diff(changes, prepend=0, append=mask.size).tolist())


def write_part(name: str, tiles: list, photo: np.ndarray, labels: np.ndarray, out_dir: Path) -> None:
    """Writes the images, semantic maps and instance file of one part, ``training`` or ``validation``."""
    image_dir, map_dir = out_dir / 'images' / name, out_dir / 'annotations' / name
    image_dir.mkdir(parents=True, exist_ok=True)
    map_dir.mkdir(parents=True, exist_ok=True)
    coin_areas = np.bincount(labels.ravel())

    images, annotations = [], []
    for image_id, tile in enumerate(tiles, start=1):
        file_name = f'y{tile.top:03d}_x{tile.left:03d}.png'
        tile_labels = tile.cut(labels)
        height, width = tile_labels.shape
        io.imsave(image_dir / file_name, tile.cut(photo), check_contrast=False)
        io.imsave(map_dir / file_name, (tile_labels > 0).astype(np.uint8), check_contrast=False)
        images.append(dict(id=image_id, file_name=file_name, height=height, width=width))
        for coin in measure.regionprops(tile_labels):
            top, left, bottom, right = coin.bbox
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=image_id,
                    category_id=1,
                    coin_id=int(coin.label),  # not part of COCO: the index of the coin in the photograph
                    bbox=[left, top, right - left, bottom - top],
                    area=int(coin.area),
                    segmentation=encode_rle(tile_labels == coin.label),
                    iscrowd=int(coin.area < MIN_VISIBLE * coin_areas[coin.label]),
                )
            )
    coco = dict(images=images, annotations=annotations, categories=[dict(id=1, name='coin')])
    (out_dir / 'annotations' / f'instances_{name}.json').write_text(json.dumps(coco))
    coins = [annotation['coin_id'] for annotation in annotations if not annotation['iscrowd']]
    print(f'{name}: tiles {len(images)}, coins {len(set(coins))}, instances {len(coins)}')


def draw_split(photo: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Draws the outlines of the coins on the photograph, in the colour of their part; returns (H, W, 3) uint8."""
    picture = np.stack([photo] * 3, axis=-1)
    outlines = segmentation.find_boundaries(labels, mode='inner')
    held_out = np.arange(len(picture))[:, None] >= SPLIT_ROW
    picture[outlines & held_out] = (255, 128, 0)
    picture[outlines & ~held_out] = (64, 160, 255)
    return picture


def main() -> None:
    parser = argparse.ArgumentParser(description='Creates the coins dataset from the photograph in scikit-image.')
    parser.add_argument('--out-dir', type=Path, default=Path('data/coins'), help='default: %(default)s')
    out_dir = parser.parse_args().out_dir

    photo = load_photo()
    labels = segment_coins(photo)
    training, validation = training_tiles(photo.shape), validation_tiles(photo.shape)
    check_split(labels, training, validation)
    write_part('training', training, photo, labels, out_dir)
    write_part('validation', validation, photo, labels, out_dir)
    io.imsave(out_dir / 'overview.png', draw_split(photo, labels), check_contrast=False)
    print(f'Written to {out_dir}; {out_dir / "overview.png"} shows the masks.')


if __name__ == '__main__':
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends without a traceback
    main()
