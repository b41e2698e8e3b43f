"""Small datasets in the layouts of docs/your_data_*.md: photographs of a ball, a box and a wedge, as users bring them.

Three classes whose ids have gaps, JPEG, polygons, one run-length mask, one crowd annotation, an image without objects.
"""

import json
from pathlib import Path

import cv2
import numpy as np

HEIGHT, WIDTH = 120, 160
CATEGORIES = [dict(id=1, name='ball'), dict(id=5, name='box'), dict(id=9, name='wedge')]
COLOURS = [(40, 40, 220), (60, 200, 60), (220, 120, 40)]


def draw_image(numbers: np.random.Generator, count: int = 3) -> tuple[np.ndarray, list[tuple[int, np.ndarray]]]:
    """Returns an image, (H, W, 3), and the objects in it: the class and the outline (N, 2) in pixels."""
    image = numbers.integers(90, 140, (HEIGHT, WIDTH, 3), np.uint8)
    objects = []
    for label in range(count):
        x, y, r = 28 + 50 * label + numbers.integers(-4, 5), numbers.integers(35, 85), numbers.integers(14, 21)
        angles = np.arange(0, 2 * np.pi, np.pi / 8 if label == 0 else np.pi / 2 if label == 1 else 2 * np.pi / 3)
        outline = np.stack([x + r * np.cos(angles), y + r * np.sin(angles)], axis=1).round().astype(np.int32)
        cv2.fillPoly(image, [outline], COLOURS[label])
        objects.append((label, outline))
    return image, objects


def instances(folder: Path, count: int = 10) -> None:
    """Writes FOLDER/images/*.jpg and FOLDER/annotations.json."""
    (folder / 'images').mkdir(parents=True)
    numbers, images, annotations = np.random.default_rng(0), [], []
    for index in range(count):
        image, objects = draw_image(numbers, 0 if index == 1 else 3)
        name = f'photo {index}.jpg'
        cv2.imwrite(str(folder / 'images' / name), image)
        images.append(dict(id=10 * index + 7, file_name=name, height=HEIGHT, width=WIDTH))
        for label, outline in objects:
            mask = cv2.fillPoly(np.zeros((HEIGHT, WIDTH), np.uint8), [outline], 1)
            x, y, width, height = map(int, cv2.boundingRect(outline))
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=images[-1]['id'],
                    category_id=CATEGORIES[label]['id'],
                    bbox=[x, y, width, height],
                    area=int(mask.sum()),
                    segmentation=run_lengths(mask) if index == 2 else [outline.ravel().tolist()],
                    iscrowd=int(index == 2 and label == 0),
                )
            )
    content = dict(images=images, annotations=annotations, categories=CATEGORIES)
    (folder / 'annotations.json').write_text(json.dumps(content))


def run_lengths(mask: np.ndarray) -> dict:
    changes = np.flatnonzero(np.diff(mask.ravel(order='F').astype(np.int8), prepend=0))
    return dict(size=list(mask.shape), counts=np.diff(changes, prepend=0, append=mask.size).tolist())


def masks(folder: Path, count: int = 4) -> None:
    """Writes FOLDER/{images,masks}/{training,validation}: 0 is ground, 1 a ball, 2 a box, 255 the upper rows."""
    numbers = np.random.default_rng(0)
    for part in ('training', 'validation'):
        (folder / 'images' / part).mkdir(parents=True)
        (folder / 'masks' / part).mkdir(parents=True)
        for index in range(count):
            image, objects = draw_image(numbers, 2)
            labels = np.zeros((HEIGHT, WIDTH), np.uint8)
            for label, outline in objects:
                cv2.fillPoly(labels, [outline], label + 1)
            labels[:5] = 255
            cv2.imwrite(str(folder / 'images' / part / f'{index}.jpg'), image)
            cv2.imwrite(str(folder / 'masks' / part / f'{index}.png'), labels)


def folders(folder: Path, count: int = 4) -> None:
    """Writes FOLDER/{training,validation}/{ball,box,wedge}/*.jpg."""
    numbers = np.random.default_rng(0)
    for part in ('training', 'validation'):
        for label, category in enumerate(CATEGORIES):
            (folder / part / category['name']).mkdir(parents=True)
            for index in range(count):
                image, objects = draw_image(numbers)
                x, y, width, height = cv2.boundingRect(objects[label][1])
                cv2.imwrite(
                    str(folder / part / category['name'] / f'{category["name"]} {index}.jpg'),
                    image[y : y + height, x : x + width],
                )


def bands(folder: Path, count: int = 4) -> None:
    """Converts the images of `masks` to TIFF with four bands of 16 bits."""
    import tifffile

    masks(folder, count)
    for file in (folder / 'images').rglob('*.jpg'):
        image = cv2.imread(str(file)).astype(np.uint16)
        infrared = 255 - image[..., :1]
        tifffile.imwrite(file.with_suffix('.tif'), np.concatenate([image, infrared], axis=2) * 40, photometric='rgb')
        file.unlink()
