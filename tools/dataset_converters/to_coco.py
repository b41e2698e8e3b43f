"""Converts annotations of labelme, Pascal VOC or YOLO to COCO format, with the library `supervision`.

    python tools/dataset_converters/to_coco.py labelme IMAGES ANNOTATIONS annotations.json
    python tools/dataset_converters/to_coco.py voc IMAGES ANNOTATIONS annotations.json
    python tools/dataset_converters/to_coco.py yolo IMAGES LABELS annotations.json --data-yaml data.yaml

IMAGES and ANNOTATIONS are folders. The images stay where they are. Install the library first: pip install supervision
"""

import argparse
import json
from collections import Counter
from pathlib import Path

from mmvmamba.engine.errors import DataError, LaunchError
from mmvmamba.engine.libraries import missing_package
from mmvmamba.engine.tool_session import tool_session

try:
    from supervision import DetectionDataset
except ImportError as error:
    raise missing_package(error) from error


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('format', choices=['labelme', 'voc', 'yolo'])
    parser.add_argument('images', type=Path, help='folder with images')
    parser.add_argument('annotations', type=Path, help='folder with one annotation file per image')
    parser.add_argument('out', type=Path, help='COCO annotation file to write')
    parser.add_argument('--data-yaml', type=Path, help='YOLO: the file that names the classes')
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    with tool_session(args):
        if args.out.exists():
            raise LaunchError(f'{args.out} exists: delete it, or choose another name')
        dataset = load(args)
        if not len(dataset):
            raise DataError(f'{args.images} and {args.annotations} contain no image with annotations')
        args.out.parent.mkdir(parents=True, exist_ok=True)
        dataset.as_coco(annotations_path=str(args.out))
        content = json.loads(args.out.read_text())
        for annotation in content['annotations']:
            annotation['iscrowd'] = 0  # supervision writes 1 for masks with holes or several parts
        args.out.write_text(json.dumps(content))
    names = {category['id']: category['name'] for category in content['categories']}
    counts = Counter(names[annotation['category_id']] for annotation in content['annotations'])
    objects = ', '.join(f'{counts[name]} {name}' for name in names.values())
    classes = ', '.join(map(repr, names.values()))
    print(f'{args.out}: {len(content["images"])} images with {objects}; in the config: classes = ({classes})')


def load(args):
    """Returns the annotations as a `DetectionDataset` of supervision."""
    for path in (args.images, args.annotations, *([args.data_yaml] if args.data_yaml else [])):
        if not path.exists():
            raise LaunchError(f'{path} does not exist')
    folders = (str(args.images), str(args.annotations))
    try:
        if args.format == 'labelme':
            check_shapes(args.annotations)
            return DetectionDataset.from_labelme(*folders)
        if args.format == 'voc':
            return DetectionDataset.from_pascal_voc(*folders)
        if args.data_yaml is None:
            raise LaunchError('yolo needs --data-yaml FILE, the file that names the classes')
        return DetectionDataset.from_yolo(*folders, str(args.data_yaml))
    except (OSError, ValueError, KeyError, TypeError, IndexError, SyntaxError) as error:
        reason = f'{" ".join(str(error).split())} ({type(error).__name__})'
        raise DataError(f'{args.annotations} cannot be read as annotations of {args.format}: {reason}') from error


def check_shapes(folder: Path) -> None:
    """Rejects shapes that supervision skips."""
    for file in sorted(folder.glob('*.json')):
        kinds = {shape.get('shape_type', 'polygon') for shape in json.loads(file.read_text())['shapes']}
        if others := sorted(kinds - {'polygon', 'rectangle'}):
            raise DataError(f'{file} has the shape {others[0]}, but only polygons and rectangles can be converted')


if __name__ == '__main__':
    main()
