"""Hostile and damaged data sets, made from a seed: annotation files of COCO, MMEngine, ImageNet and mmseg, and images.

Each generator writes one data set of two images into a folder and returns what to load. The same seed and number make
the same files.
"""

import json
import os
import pickle
import random
import socket
import struct
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

HEIGHT, WIDTH = 20, 24
CLASSES = ('coin', 'token')
NUMBERS = [0, -1, 1.5, 1e308, -1e308, float('nan'), float('inf'), 2**31, 2**32, 2**63, 10**100, 429496730, 1e-320, True]
VALUES = [
    None,
    '',
    'x',
    '1',
    '\n\x1b[31m',
    '/dev/zero',
    '../' * 50,
    'é' * 3000,
    [],
    {},
    [None],
    [[]],
    {'a': 1},
    *NUMBERS,
]


@dataclass
class Case:
    """A data set on disk.

    Attributes:
        kind: what was done, for the table.
        dataset: 'coco', 'mmengine', 'seg', 'cls' or 'metric'.
        ann_file: annotation file, or folder of images and maps.
        options: further arguments of the data set.
    """

    kind: str
    dataset: str
    ann_file: Path
    options: dict = field(default_factory=dict)


def make_case(folder: Path, seed: int, number: int) -> Case:
    chance = random.Random(f'{seed} {number}')
    make_images(folder)
    return chance.choice(GENERATORS)(folder, chance)


def make_images(folder: Path) -> None:
    (folder / 'images').mkdir(parents=True)
    for name in ('0.png', '1.png'):
        cv2.imwrite(str(folder / 'images' / name), np.full((HEIGHT, WIDTH, 3), 127, np.uint8))


# COCO


def coco() -> dict:
    annotations = [
        dict(id=n, image_id=n % 2, category_id=1 + n % 2, bbox=[2, 3, 10, 8], area=80, iscrowd=0, segmentation=mask)
        for n, mask in enumerate([polygon(), runs(), compressed(), polygon()])
    ]
    images = [dict(id=n, file_name=f'{n}.png', height=HEIGHT, width=WIDTH) for n in (0, 1)]
    return dict(
        images=images, annotations=annotations, categories=[dict(id=n, name=c) for n, c in enumerate(CLASSES, 1)]
    )


def polygon() -> list:
    return [[2, 3, 12, 3, 12, 11, 2, 11]]


def runs() -> dict:
    return dict(size=[HEIGHT, WIDTH], counts=[100, 50, HEIGHT * WIDTH - 150])


def compressed() -> dict:
    from pycocotools import mask

    rle = mask.encode(np.asfortranarray(np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) % 7 == 0).astype(np.uint8))
    return dict(size=rle['size'], counts=rle['counts'].decode())


def write_json(folder: Path, content: object) -> Path:
    (folder / 'annotations.json').write_text(json.dumps(content))
    return folder / 'annotations.json'


def a_coco_reader(chance: random.Random) -> str:
    return chance.choice(('coco', 'coco', 'metric'))


def coco_values(folder: Path, chance: random.Random) -> Case:
    """One to three values replaced, anywhere."""
    content = coco()
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        replace(content, chance)
    return Case('COCO: values', a_coco_reader(chance), write_json(folder, content))


def replace(content: object, chance: random.Random) -> None:
    """A value somewhere in nested lists and dicts becomes another one, or is removed, or is there twice."""
    spots = list(places(content))
    if not spots:
        return
    container, key = chance.choice(spots)
    action = chance.random()
    if action < 0.15:
        del container[key]
    elif action < 0.25 and isinstance(container, list):
        container.append(container[key])
    else:
        container[key] = chance.choice(VALUES)


def places(node: object):
    for key, value in list(node.items() if isinstance(node, dict) else enumerate(node)):
        yield node, key
        if isinstance(value, (dict, list)):
            yield from places(value)


def coco_structure(folder: Path, chance: random.Random) -> Case:
    """Another type of a part, or of the whole."""
    content = coco()
    content = chance.choice(
        [
            chance.choice(VALUES),
            [content],
            content | {chance.choice(list(content)): chance.choice(VALUES)},
            content | {chance.choice(list(content)): dict(enumerate(content['images']))},
            content | {'categories': [*content['categories'][::-1]]},
            content | {'categories': content['categories'][:1]},
            content | {'categories': content['categories'] * 2},
            content | {'images': content['images'] * 2},
            content | {'annotations': content['annotations'] * 2},
            content | {'annotations': [{**a, 'id': str(a['id'])} for a in content['annotations'][:2]]},
            content | {'annotations': [{**a, 'image_id': str(a['image_id'])} for a in content['annotations']]},
            content | {'annotations': [{**a, 'iscrowd': chance.choice(VALUES)} for a in content['annotations']]},
            {key: value for key, value in content.items() if chance.random() < 0.5},
        ]
    )
    return Case('COCO: structure', a_coco_reader(chance), write_json(folder, content))


def coco_masks(folder: Path, chance: random.Random) -> Case:
    """A mask that pycocotools would read outside of its buffers, or leave uninitialised."""
    content = coco()
    chance.choice(content['annotations'])['segmentation'] = chance.choice((bad_polygons, bad_runs, bad_string))(chance)
    return Case('COCO: masks', a_coco_reader(chance), write_json(folder, content))


def bad_polygons(chance: random.Random) -> object:
    points = [chance.choice([chance.uniform(-5, 30), chance.choice(NUMBERS)]) for _ in range(chance.choice((6, 7, 8)))]
    return chance.choice(
        [
            [points],
            points,
            [polygon()[0], points],
            [[]],
            [[1, 2]],
            [[1, 2, 3, 4]],
            [polygon()[0], [1, 2, 3, 4]],
            [[[1, 2], [3, 4], [5, 6]]],
            [[0, 0, 2**20, 2**20] * 5000],
            [[chance.uniform(-(2**31), 2**31) for _ in range(6)]],
            [[chance.choice(VALUES) for _ in range(6)]],
            chance.choice(VALUES),
        ]
    )


def bad_runs(chance: random.Random) -> dict:
    rle = runs()
    for _ in range(chance.choice((1, 1, 2))):
        key = chance.choice(('size', 'counts', 'counts', 'none'))
        if key == 'none':
            rle.pop(chance.choice(list(rle)), None)
        elif key == 'size':
            sizes = [[WIDTH, HEIGHT], [2**31, 2**31], [0, 0], [-1, 5], [20.0, 24.0], [20], [20, 24, 1], ['20', '24']]
            rle['size'] = chance.choice([*sizes, *VALUES])
        else:
            counts = [chance.randrange(-50, 300) for _ in range(chance.randrange(6))]
            rle['counts'] = chance.choice([counts, [chance.choice(VALUES)], [1.5, 2.5], [480], [2**40], *VALUES])
    return rle


def bad_string(chance: random.Random) -> dict:
    rle = compressed()
    text = rle['counts']
    rle['counts'] = chance.choice(
        [
            text[: chance.randrange(len(text))],
            text + chance.choice('0PoO~ \x7f'),
            text[:-1] + chance.choice('PQ_`ao'),
            ''.join(chr(chance.randrange(48, 112)) for _ in range(chance.randrange(40))),
            ''.join(chr(chance.randrange(1, 300)) for _ in range(chance.randrange(40))),
            'o' * chance.randrange(1, 4000),
            text.replace(text[3], chance.choice('0123P')),
        ]
    )
    return rle


def json_bytes(folder: Path, chance: random.Random) -> Case:
    """Damaged text: bits, cuts, encodings, nesting."""
    file = write_json(folder, coco())
    content = bytearray(file.read_bytes())
    way = chance.randrange(6)
    if way == 0:
        for _ in range(chance.choice((1, 1, 5))):
            content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    elif way == 1:
        del content[chance.randrange(len(content)) :]
    elif way == 2:
        content = content.decode().encode(chance.choice(('utf-16', 'utf-8-sig', 'utf-32', 'latin1')))
    elif way == 3:
        content = b'[' * 10 ** chance.randrange(2, 6)
    elif way == 4:
        content = content.replace(b'80', b'9' * chance.choice((50, 400, 5000)))
    else:
        content = bytes(chance.randrange(256) for _ in range(200))
    file.write_bytes(content)
    return Case('COCO: bytes', a_coco_reader(chance), file)


# Files that run code


class Runs:
    """Unpickling it makes a file."""

    def __init__(self, marker: Path):
        self.marker = str(marker)

    def __reduce__(self) -> tuple:
        return os.mkdir, (self.marker,)


def code(folder: Path, chance: random.Random) -> Case:
    marker = folder / 'code_ran'
    file = folder / f'annotations.{chance.choice(("pkl", "pickle", "yml", "yaml"))}'
    tag = chance.choice(('python/object/apply:os.mkdir', 'python/object/new:os.mkdir', 'python/name:os.mkdir'))
    texts = [
        f'!!{tag} ["{marker}"]',
        f'metainfo: {{}}\ndata_list: !!{tag} ["{marker}"]',
        '- ' * 20000,
        'a: &a [x]\nb: &b [*a,*a]\nc: [*b,*b]',
    ]
    if file.suffix in ('.pkl', '.pickle'):
        content = [Runs(marker), dict(metainfo={}, data_list=[Runs(marker)]), mmengine_content()]
        file.write_bytes(pickle.dumps(chance.choice(content)))
    else:
        file.write_text(chance.choice([*texts, json.dumps(mmengine_content())]))
    return Case('pickle and YAML', 'mmengine', file)


# MMEngine's format


def mmengine_content() -> dict:
    instance = dict(bbox=[2, 3, 12, 11], bbox_label=1, mask=polygon(), ignore_flag=0)
    samples = [
        dict(img_path=f'{n}.png', height=HEIGHT, width=WIDTH, img_id=n, instances=[instance | dict(bbox_label=n)])
        for n in (0, 1)
    ]
    return json.loads(json.dumps(dict(metainfo={}, data_list=samples)))


def mmengine_values(folder: Path, chance: random.Random) -> Case:
    content = mmengine_content()
    for _ in range(chance.choice((1, 1, 2))):
        replace(content, chance)
    if chance.random() < 0.3:
        mask = chance.choice((bad_polygons, bad_runs, bad_string))(chance)
        content = mmengine_content()
        content['data_list'][0]['instances'][0]['mask'] = mask
    return Case('MMEngine: values', 'mmengine', write_json(folder, content))


# Images and maps


def bad_image(file: Path, chance: random.Random) -> None:
    """Something in the place of an image that is none, or announces more than it has."""
    file.unlink(missing_ok=True)
    width, height = (chance.choice((24, 1 << 15, 31000, 1 << 20, (1 << 31) - 1)) for _ in range(2))
    way = chance.randrange(9)
    if way == 0:
        chance.choice((lambda: os.mkfifo(file), file.mkdir, lambda: open_socket(file)))()
    elif way == 1:
        targets = ('/dev/zero', '/dev/urandom', '/dev/full', '/dev/null', '/dev/stdin', '/proc/self/mem', file.name)
        file.symlink_to(chance.choice(targets))
    elif way == 2:
        file.write_bytes(png(width, height, chance.choice(([], [(b'gAMA', b'x')], [(b'zTXt', b'a\0\0' + b'x' * 9)]))))
    elif way == 3:
        order = chance.choice('<>')
        entries = [(256, width), (257, height), (258, 8), (259, 1), (262, 1), (273, 8), (277, 1), (278, 1), (279, 1)]
        directory = b''.join(struct.pack(f'{order}HHII', tag, 4, 1, value) for tag, value in entries)
        mark = b'II*\0' if order == '<' else b'MM\0*'
        file.write_bytes(mark + struct.pack(f'{order}IH', 8, len(entries)) + directory + bytes(4))
    elif way == 4:
        sof = struct.pack('>HHBHHB', 0xFFC0, 17, 8, height & 0xFFFF, width & 0xFFFF, 3) + bytes(range(9))
        file.write_bytes(b'\xff\xd8' + sof + b'\xff\xda' + bytes(100))
    elif way == 5:
        file.write_bytes(b'BM' + struct.pack('<IIIIiiHHIIIIII', 1000, 0, 54, 40, width, height, 1, 24, *[0] * 6))
    elif way == 6:
        file.write_bytes(chance.choice((b'', b'GIF89a' + struct.pack('<HH', 65535, 65535), b'P6 99999 99999 255\n')))
    elif way == 7:
        file.write_bytes(bytes(chance.randrange(256) for _ in range(chance.randrange(2000))))
    else:
        with open(file, 'wb') as sparse:
            sparse.write(chance.choice((b'\x89PNG\r\n\x1a\n', b'', b'BM')))
            sparse.truncate(chance.choice((1 << 20, 1 << 40)))


def png(width: int, height: int, chunks: list) -> bytes:
    """A black image of any size: what is announced is there, up to 16 MB, in few bytes."""
    data = zlib.compress(bytes(min((width // 8 + 1) * height + height, 1 << 24)))
    parts = [(b'IHDR', struct.pack('>IIBBBBB', width, height, 1, 0, 0, 0, 0)), *chunks, (b'IDAT', data), (b'IEND', b'')]
    return b'\x89PNG\r\n\x1a\n' + b''.join(
        struct.pack('>I', len(body)) + name + body + struct.pack('>I', zlib.crc32(name + body)) for name, body in parts
    )


def open_socket(file: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        before = os.getcwd()
        os.chdir(file.parent)  # the path of a socket may not be long
        server.bind(file.name)
        os.chdir(before)


def images(folder: Path, chance: random.Random) -> Case:
    bad_image(folder / 'images' / '0.png', chance)
    return Case('images', 'coco', write_json(folder, coco()))


def maps(folder: Path, chance: random.Random) -> Case:
    """Maps of classes of mmseg, and its list of images."""
    (folder / 'maps').mkdir()
    for name in ('0.png', '1.png'):
        cv2.imwrite(str(folder / 'maps' / name), np.eye(HEIGHT, WIDTH, dtype=np.uint8))
    file, options = folder / 'maps' / '0.png', {}
    way = chance.randrange(6)
    if way == 0:
        bad_image(file, chance)
    elif way == 1:
        shape = chance.choice([(HEIGHT, WIDTH, 3), (WIDTH, HEIGHT), (1, 1), (HEIGHT, WIDTH, 4)])
        cv2.imwrite(str(file), np.zeros(shape, np.uint8))
    elif way == 2:
        kind = chance.choice((np.uint8, np.uint16))
        cv2.imwrite(str(file), np.full((HEIGHT, WIDTH), chance.choice((2, 3, 200, 254, 255)), kind))
    elif way == 3:
        content = file.read_bytes()
        file.write_bytes(content[: chance.randrange(len(content))])
    elif way == 4:
        bad_image(folder / 'images' / '0.png', chance)
    else:
        options['ann_file'] = str(text_list(folder, chance, ['0', '1']))
    return Case('mmseg: maps and lists', 'seg', folder, options)


def text_list(folder: Path, chance: random.Random, lines: list[str]) -> Path:
    """A list of images, damaged."""
    file = folder / 'list.txt'
    lines = [*lines, *chance.choices(['', ' ', '\0', '../0', '/dev/zero', 'é', 'x' * 5000, '0 0 0', '%s', '0'], k=2)]
    chance.shuffle(lines)
    content = '\n'.join(lines).encode()
    file.write_bytes(chance.choice((content, content, content.decode().encode('utf-16'), b'\xff\xfe\0', b'')))
    return file


def labels(folder: Path, chance: random.Random) -> Case:
    """A list of images and labels of mmpretrain, or its format of JSON."""
    if chance.random() < 0.5:
        pairs = [f'{n}.png {chance.choice((n, n, -1, 2, 99, "x", 1.5, 10**30, "", "nan"))}' for n in (0, 1)]
        return Case('ImageNet: labels', 'cls', text_list(folder, chance, pairs))
    content = dict(metainfo={}, data_list=[dict(img_path=f'{n}.png', gt_label=n) for n in (0, 1)])
    replace(content, chance)
    return Case('ImageNet: labels', 'cls_json', write_json(folder, content))


GENERATORS = [
    *[coco_values] * 4,
    coco_structure,
    *[coco_masks] * 4,
    *[json_bytes] * 2,
    code,
    *[mmengine_values] * 2,
    *[images] * 2,
    *[maps] * 2,
    *[labels] * 2,
]
