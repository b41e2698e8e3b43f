"""Converts COCO annotations to one mask per image, for semantic segmentation.

    python tools/dataset_converters/coco_to_masks.py data/mine/annotations.json data/mine/masks

Pixels of the first category become 1, those of the second 2, and so on; all others become 0. Where objects overlap, the
smaller one is on top. Regions with `iscrowd` become 255, which is ignored. The masks have the names of the images, with
the suffix .png.
"""

import argparse
from pathlib import Path

import numpy as np
from mmengine.utils import track_iter_progress
from PIL import Image

from mmvmamba.engine.checks.coco_files import mask_evaluation_fault, read_coco
from mmvmamba.engine.errors import DataError, LaunchError
from mmvmamba.engine.libraries import missing_package
from mmvmamba.engine.tool_session import tool_session

try:
    from pycocotools.coco import COCO
except ImportError as error:
    raise missing_package(error) from error

IGNORED = 255


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('annotations', type=Path, help='COCO annotation file')
    parser.add_argument('out_dir', type=Path, help='new folder for the masks')
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    with tool_session(args):
        if args.out_dir.is_dir() and any(args.out_dir.iterdir()):
            raise LaunchError(f'{args.out_dir} is not empty: choose a new folder, so that no mask is overwritten')
        content = read_coco(args.annotations)
        if fault := mask_evaluation_fault(content):
            raise DataError(f'{args.annotations}: {fault.replace("the evaluation of masks needs", "a mask needs")}')
        categories = content.get('categories', [])
        if len(categories) >= IGNORED:
            raise LaunchError(f'{args.annotations} has {len(categories)} categories, but masks can have at most 254')
        values = {category['id']: value for value, category in enumerate(categories, start=1)}
        coco = COCO(str(args.annotations))
        names = {image['id']: Path(image['file_name']).with_suffix('.png') for image in content['images']}
        if len(set(names.values())) < len(names):
            raise DataError(f'{args.annotations} has two images whose names differ only in the suffix: rename one')
        for image in track_iter_progress(content['images']):
            file = args.out_dir / names[image['id']]
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(draw(coco, image, values)).save(file)
    classes = ', '.join(repr(name) for name in ('background', *(category['name'] for category in categories)))
    print(f'\n{len(names)} masks written to {args.out_dir}; in the config: classes = ({classes})')


def draw(coco: COCO, image: dict, values: dict) -> np.ndarray:
    """Returns the mask of an image, (height, width) uint8."""
    mask = np.zeros((image['height'], image['width']), np.uint8)
    objects = coco.loadAnns(coco.getAnnIds(imgIds=[image['id']]))
    for each in sorted(objects, key=lambda each: (-each['iscrowd'], -each['area'])):  # crowds at the bottom
        mask[coco.annToMask(each) == 1] = IGNORED if each['iscrowd'] else values[each['category_id']]
    return mask


if __name__ == '__main__':
    main()
