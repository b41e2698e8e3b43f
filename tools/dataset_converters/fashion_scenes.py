"""Creates scenes with known masks: clothes of Fashion-MNIST on photographs of scikit-image.

    apt-get install dataset-fashion-mnist
    python tools/dataset_converters/fashion_scenes.py data/scenes --images 200 100 --sizes 256 512 --seed 0

Each scene shows one to six objects with random class, size, colour, flip and position. Later objects cover earlier
ones; masks and boxes describe the visible part. Training and validation scenes share no photograph and no object image:
training objects come from the training part of Fashion-MNIST, validation objects from its test part. The same seed
gives the same files, and scene i does not depend on the number of scenes.

Output, for configs/your_data/instances.py (COCO format) and masks.py (0 is background, 1 the first class)::

    data/scenes/
        training.json, validation.json
        images/{training,validation}/*.jpg
        masks/{training,validation}/*.png

With `--single`, each image shows one object that fills most of it. Output, for configs/your_data/folders.py::

    data/scenes/{training,validation}/CLASS/*.jpg
"""

import argparse
import gzip
import json
import math
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy import ndimage

from mmvmamba.engine.libraries import missing_package

try:
    from pycocotools import mask as mask_coder
    from skimage import data, measure
except ImportError as error:
    raise missing_package(error) from error

SOURCE = Path('/usr/share/datasets/fashion-mnist')  # of the Debian package
CLASSES = ('tshirt', 'trouser', 'pullover', 'dress', 'coat', 'sandal', 'shirt', 'sneaker', 'bag', 'boot')  # labels 0-9
IDX_PREFIX = dict(training='train', validation='t10k')
PHOTOS = dict(
    training=('astronaut', 'brick', 'camera', 'chelsea', 'coffee', 'gravel', 'hubble_deep_field', 'page'),
    validation=('grass', 'immunohistochemistry', 'moon', 'retina', 'rocket', 'stereo_motorcycle'),
)
MIN_VISIBLE = 0.3  # fraction of an object that other objects and the border of the scene may not cover
ATTEMPTS = 20  # to find a position for an object
INSIDE = 20  # a pixel of Fashion-MNIST with a higher value, of 255, is part of the object


class Composition(NamedTuple):
    """What a scene looks like."""

    most_objects: int
    object_sizes: tuple[float, float]  # longer side of an object, relative to the longer side of the scene
    outside: float  # fraction of the height and of the width of an object that may be outside of the scene
    min_aspect: float  # shorter / longer side of a scene


SCENE = Composition(most_objects=6, object_sizes=(0.12, 0.5), outside=0.5, min_aspect=0.6)
SINGLE = Composition(most_objects=1, object_sizes=(0.6, 0.95), outside=0.1, min_aspect=1.0)


class Garments(NamedTuple):
    """Images of Fashion-MNIST, (N, 28, 28) uint8, and the indices of those of each class."""

    pixels: np.ndarray
    of_class: dict[str, np.ndarray]


def read_idx(file: Path, magic: int) -> np.ndarray:
    """Reads a compressed IDX file of bytes: the shape is (N,) for magic number 2049, (N, rows, columns) for 2051."""
    if not file.is_file():
        sys.exit(
            f'{file} does not exist: install it with `apt-get install dataset-fashion-mnist`, or pass the folder with '
            'the IDX files of Fashion-MNIST as --source.'
        )
    try:
        content = gzip.decompress(file.read_bytes())
        found, *shape = np.frombuffer(content, '>i4', count=1 + magic % 256).tolist()
        if found != magic:
            raise ValueError(f'the magic number is {found} instead of {magic}')
        return np.frombuffer(content, np.uint8, offset=4 + 4 * len(shape)).reshape(shape)
    except (OSError, EOFError, ValueError) as error:
        sys.exit(f'{file} is not an IDX file of Fashion-MNIST: {error}.')


def read_garments(source: Path, part: str, classes: list[str]) -> Garments:
    pixels = read_idx(source / f'{IDX_PREFIX[part]}-images-idx3-ubyte.gz', magic=2051)
    labels = read_idx(source / f'{IDX_PREFIX[part]}-labels-idx1-ubyte.gz', magic=2049)
    of_class = {name: np.flatnonzero(labels == CLASSES.index(name)) for name in classes}
    for name, indices in of_class.items():
        if not len(indices):
            sys.exit(f'{source} contains no image of the class {name} for {part}: remove it from --classes.')
    return Garments(pixels, of_class)


def read_photos(part: str) -> list[Image.Image]:
    """Returns the photographs of one part, from files in the package of scikit-image."""
    photos = []
    for name in PHOTOS[part]:
        photo = getattr(data, name)()
        pixels = photo[0] if isinstance(photo, tuple) else photo  # the left one of a stereo pair
        photos.append(Image.fromarray(pixels).convert('RGB'))
    return photos


def cut_background(photo: Image.Image, width: int, height: int, random: np.random.Generator) -> np.ndarray:
    """Returns a random region of a photograph, flipped in half of the cases, (height, width, 3) uint8."""
    scale = min(photo.width / width, photo.height / height) * random.uniform(0.5, 1)
    left, top = random.uniform(0, photo.width - scale * width), random.uniform(0, photo.height - scale * height)
    box = (left, top, left + scale * width, top + scale * height)
    region = np.asarray(photo.resize((width, height), Image.Resampling.BICUBIC, box=box))
    return region[:, ::-1] if random.random() < 0.5 else region


def cut_garment(pixels: np.ndarray, longer: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Enlarges an image of Fashion-MNIST and paints it; returns colours (h, w, 3) uint8 and a mask (h, w) bool.

    `longer` is the length of the longer side of the result, which contains the object without a margin.
    """
    regions = np.asarray(measure.label(pixels > INSIDE, connectivity=1))
    largest = regions == 1 + np.argmax(np.bincount(regions.ravel())[1:])
    (top, bottom), (left, right) = extent(largest)
    scale = longer / max(bottom - top, right - left)
    size = max(1, round(scale * (right - left))), max(1, round(scale * (bottom - top)))
    soft = ndimage.gaussian_filter(largest.astype(np.float32), 0.6)  # its contour has no steps after the enlargement
    shade, mask = (
        np.asarray(Image.fromarray(each).resize(size, Image.Resampling.BICUBIC, box=(left, top, right, bottom)))
        for each in (pixels, soft)
    )
    if random.random() < 0.5:
        shade, mask = shade[:, ::-1], mask[:, ::-1]
    paint = random.uniform(0.3, 1, size=3)
    return (shade[..., None] * paint).astype(np.uint8), mask > 0.5


def extent(mask: np.ndarray) -> tuple[tuple[int, int], tuple[int, int]]:
    """Returns the first row and the row after the last of a mask, and the same of its columns."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return (int(rows[0]), int(rows[-1]) + 1), (int(columns[0]), int(columns[-1]) + 1)


def random_size(limits: tuple[float, float], random: np.random.Generator) -> float:
    """Draws from a log-uniform distribution, so that small objects are as frequent as large ones."""
    return math.exp(random.uniform(*np.log(limits)))


def paste(
    scene: np.ndarray, colours: np.ndarray, inside: np.ndarray, outside: float, random: np.random.Generator
) -> np.ndarray:
    """Pastes an object into a scene at a random position, and returns its mask, (height, width) bool."""
    height, width = inside.shape
    top, left = (
        math.floor(random.uniform(-outside * side, whole - (1 - outside) * side))
        for side, whole in zip((height, width), scene.shape)
    )
    target = scene[max(top, 0) : top + height, max(left, 0) : left + width]
    part = tuple(slice(max(-start, 0), max(-start, 0) + length) for start, length in zip((top, left), target.shape))
    target[inside[part]] = colours[part][inside[part]]
    mask = np.zeros(scene.shape[:2], bool)
    mask[max(top, 0) : top + height, max(left, 0) : left + width] = inside[part]
    return mask


def draw_scene(
    garments: Garments,
    photos: list[Image.Image],
    sizes: tuple[int, int],
    composition: Composition,
    random: np.random.Generator,
) -> tuple[np.ndarray, list[tuple[str, np.ndarray]]]:
    """Returns the pixels of a scene, (height, width, 3) uint8, and the class and the visible mask of each object."""
    longer = round(random_size(sizes, random))
    width, height = longer, round(longer * random.uniform(composition.min_aspect, 1))
    if random.random() < 0.5:
        width, height = height, width
    scene = cut_background(photos[random.integers(len(photos))], width, height, random).copy()
    names, masks, whole_areas = [], [], []
    for _ in range(random.integers(1, composition.most_objects + 1)):
        name = str(random.choice(list(garments.of_class)))
        pixels = garments.pixels[random.choice(garments.of_class[name])]
        colours, inside = cut_garment(pixels, round(longer * random_size(composition.object_sizes, random)), random)
        for _ in range(ATTEMPTS):
            changed = scene.copy()
            mask = paste(changed, colours, inside, composition.outside, random)
            visible = [*(other & ~mask for other in masks), mask]
            areas = [*whole_areas, inside.sum()]
            if all(each.sum() >= MIN_VISIBLE * area for each, area in zip(visible, areas)):
                scene, names, masks, whole_areas = changed, [*names, name], visible, areas
                break
    return scene, list(zip(names, masks))


def annotation(name: str, classes: list[str], mask: np.ndarray) -> dict:
    """Returns the annotation of an object in COCO format, without ids."""
    (top, bottom), (left, right) = extent(mask)
    rle = mask_coder.encode(np.asfortranarray(mask, np.uint8))
    counts = rle['counts'].decode()  # pyright: ignore[reportAttributeAccessIssue] (bytes, but declared as str)
    return dict(
        category_id=classes.index(name) + 1,
        bbox=[left, top, right - left, bottom - top],
        area=int(mask.sum()),
        segmentation=dict(size=list(mask.shape), counts=counts),
        iscrowd=0,
    )


def write_scenes(out_dir: Path, part: str, classes: list[str], scenes: Iterable) -> None:
    """Writes the images, label maps and the COCO file of one part."""
    images, annotations = [], []
    for number, (pixels, things) in enumerate(scenes, start=1):
        name = f'{part}/{number:05d}'
        save(pixels, out_dir / f'images/{name}.jpg')
        labels = np.zeros(pixels.shape[:2], np.uint8)
        for class_name, mask in things:
            labels[mask] = classes.index(class_name) + 1
            annotations.append(dict(id=len(annotations) + 1, image_id=number, **annotation(class_name, classes, mask)))
        save(labels, out_dir / f'masks/{name}.png')
        images.append(dict(id=number, file_name=f'{name}.jpg', height=pixels.shape[0], width=pixels.shape[1]))
    categories = [dict(id=index, name=name) for index, name in enumerate(classes, start=1)]
    content = dict(images=images, annotations=annotations, categories=categories)
    (out_dir / f'{part}.json').write_text(json.dumps(content))
    print(f'{part}: {len(images)} scenes with {len(annotations)} objects')


def write_folders(out_dir: Path, part: str, scenes: Iterable) -> None:
    """Writes images of one object each, in a folder for each class."""
    number = 0
    for number, (pixels, things) in enumerate(scenes, start=1):
        save(pixels, out_dir / part / things[0][0] / f'{number:05d}.jpg')
    print(f'{part}: {number} images')


def save(pixels: np.ndarray, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file, quality=95)


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('out_dir', type=Path, help='a new or empty folder')
    parser.add_argument('--source', type=Path, default=SOURCE, help='folder of the IDX files (default: %(default)s)')
    parser.add_argument(
        '--images', type=int, nargs=2, default=(200, 100), metavar=('TRAINING', 'VALIDATION'), help='number of images'
    )
    parser.add_argument(
        '--sizes', type=int, nargs=2, default=(256, 512), metavar=('MIN', 'MAX'), help='longer side in pixels'
    )
    parser.add_argument('--classes', nargs='+', choices=CLASSES, default=CLASSES, help='default: all ten')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--single', action='store_true', help='one object per image, for classification')
    args = parser.parse_args(argv)
    if not 32 <= args.sizes[0] <= args.sizes[1]:
        parser.error(f'--sizes {args.sizes[0]} {args.sizes[1]}: MIN must be at least 32, and MAX at least MIN')
    if min(args.images) < 1 or args.seed < 0:
        parser.error('--images must be at least 1, and --seed at least 0')
    if args.out_dir.exists() and (args.out_dir.is_file() or any(args.out_dir.iterdir())):
        parser.error(f'{args.out_dir} exists: delete it, or choose another folder')
    return args


def main(argv=None):
    args = parse_args(argv)
    classes = list(dict.fromkeys(args.classes))
    for part, count in zip(PHOTOS, args.images):
        garments, photos = read_garments(args.source, part, classes), read_photos(part)
        scenes = (
            draw_scene(
                garments,
                photos,
                args.sizes,
                SINGLE if args.single else SCENE,
                np.random.default_rng([args.seed, part == 'validation', index]),
            )
            for index in range(count)
        )
        if args.single:
            write_folders(args.out_dir, part, scenes)
        else:
            write_scenes(args.out_dir, part, classes, scenes)
    print(f'Written to {args.out_dir}; classes = {tuple(classes)}')


if __name__ == '__main__':
    main()
