"""Splits one COCO annotation file into training and validation, by image.

    python tools/dataset_converters/split_coco.py data/mine/annotations.json --validation 0.2

writes training.json and validation.json next to the file. The images stay where they are. The split is random and
repeatable: it depends only on the seed. Each class has about the same share of its objects in both parts
(scikit-learn's StratifiedShuffleSplit cannot do this for images with several classes).
"""

import argparse
import json
import random
from collections import Counter, defaultdict
from pathlib import Path

from mmvmamba.engine.checks.coco_files import read_coco
from mmvmamba.engine.errors import LaunchError
from mmvmamba.engine.tool_session import tool_session


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('annotations', type=Path, help='COCO annotation file')
    parser.add_argument('--validation', type=float, default=0.2, help='share of the images (default: %(default)s)')
    parser.add_argument('--seed', type=int, default=0, help='default: %(default)s')
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    with tool_session(args):
        content = read_coco(args.annotations)
        validation = choose(content, args.validation, args.seed)
        outputs = {part: args.annotations.with_name(f'{part}.json') for part in ('training', 'validation')}
        for file in outputs.values():
            if file.exists():
                raise LaunchError(f'{file} exists: delete it, or move the annotation file to another folder')
        names = {category['id']: category['name'] for category in content.get('categories', ())}
        for part, file in outputs.items():
            selected = select(content, validation, part == 'validation')
            file.write_text(json.dumps(selected))
            counts = Counter(names[each['category_id']] for each in selected['annotations'])
            objects = ', '.join(f'{counts[name]} {name}' for name in names.values())
            print(f'{file}: {len(selected["images"])} images with {objects}')


def choose(content: dict, share: float, seed: int) -> set:
    """Returns the ids of the validation images.

    Images are visited by their rarest class, and each of these groups is split in the given share.
    """
    images = [image['id'] for image in content.get('images', ())]
    total = round(share * len(images))
    if not 0 < total < len(images):
        raise LaunchError(
            f'--validation {share} of {len(images)} images selects {total}, but both parts need at least one image'
        )
    classes = defaultdict(set)
    for annotation in content.get('annotations', ()):
        classes[annotation['image_id']].add(annotation['category_id'])
    frequency = Counter(category for found in classes.values() for category in found)
    random.Random(seed).shuffle(images)
    # sorted() is stable, so images with the same rarest class are in random order
    images = sorted(images, key=lambda image: min((frequency[c], str(c)) for c in classes.get(image) or {None}))
    step = len(images) / total
    return {images[int((index + 0.5) * step)] for index in range(total)}


def select(content: dict, validation: set, inside: bool) -> dict:
    """Returns the content with the validation images only, or without them."""
    return content | dict(
        images=[image for image in content['images'] if (image['id'] in validation) == inside],
        annotations=[each for each in content['annotations'] if (each['image_id'] in validation) == inside],
    )


if __name__ == '__main__':
    main()
