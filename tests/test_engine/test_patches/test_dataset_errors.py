"""Damaged data: training says which file it cannot use, in one sentence."""

import json
import os
import re
import shutil
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS
from torch.utils.data import DataLoader

from mmvmamba.engine.errors import DataError
from mmvmamba.engine.libraries import import_libraries
from mmvmamba.engine.patches.dataset_errors import install_dataset_errors

cv2 = pytest.importorskip('cv2')
pytest.importorskip('mmdet')
pytest.importorskip('skimage', reason='the coins are a photograph of scikit-image')

ROOT = Path(__file__).parents[3]
CONFIGS = dict(det='mask-rcnn_vmamba-demo_fpn_coins.py', seg='vmamba-demo_upernet_coins.py')
TILE = 'y000_x000'
IMAGE, MASK = f'images/training/{TILE}.png', f'annotations/training/{TILE}.png'
COCO = 'annotations/instances_training.json'


@pytest.fixture(scope='module')
def coins(tmp_path_factory):
    folder = tmp_path_factory.mktemp('coins')
    script = ROOT / 'tools' / 'dataset_converters' / 'coins.py'
    subprocess.run([sys.executable, script, '--out-dir', folder], check=True)
    return folder


@pytest.fixture
def data(coins, tmp_path):
    return Path(shutil.copytree(coins, tmp_path / 'coins'))


def config(task, data):
    """The demo's, on other data; one batch is all tiles."""
    cfg = Config.fromfile(ROOT / 'configs' / 'demo' / CONFIGS[task])
    cfg.train_dataloader.dataset.data_root = str(data)
    cfg.train_dataloader.batch_size = 18
    return cfg


def load_all(cfg):
    """The sentence with which loading of the training data ends."""
    import_libraries(cfg, 'config.py')
    install_dataset_errors()
    with pytest.raises(DataError) as caught, DATASETS.switch_scope_and_registry(cfg.default_scope):
        for _ in DATASETS.build(cfg.train_dataloader.dataset):
            pass
    return str(caught.value)


def cut(path, share=0.6):
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])


def change(data, alter):
    coco = json.loads((data / COCO).read_text())
    alter(coco)
    (data / COCO).write_text(json.dumps(coco))


def as_jpeg(data):
    pixels = cv2.imread(str(data / IMAGE))
    (data / IMAGE).unlink()
    cv2.imwrite(str((data / IMAGE).with_suffix('.jpg')), pixels)


def cut_jpeg(data):
    def rename(coco):
        for image in coco['images']:
            image['file_name'] = image['file_name'].replace(f'{TILE}.png', f'{TILE}.jpg')

    as_jpeg(data)
    change(data, rename)
    cut((data / IMAGE).with_suffix('.jpg'))


def smaller_mask(coco):
    coco['annotations'][0]['segmentation'] = dict(size=[100, 100], counts=[0, 10000])


def without(key, part='annotations'):
    def alter(coco):
        for entry in coco[part]:
            entry.pop(key)

    return alter


@pytest.mark.parametrize(
    'damage, sentence',
    [
        (cut_jpeg, f'{TILE}.jpg cannot be read as an image: it is empty, truncated'),
        (lambda data: cut(data / IMAGE), f'{TILE}.png cannot be read as an image: it is empty, truncated'),
        (
            lambda data: (data / IMAGE).write_bytes(b''),
            f'{TILE}.png cannot be read as an image: it is empty, truncated',
        ),
        (
            lambda data: (data / IMAGE).write_text('no image'),
            f'{TILE}.png cannot be read as an image: it is empty, truncated',
        ),
        (lambda data: (data / IMAGE).unlink(), f'{TILE}.png cannot be read as an image: No such file'),
        (
            lambda data: cut(data / COCO),
            'training.json cannot be read as JSON: .*JSONDecodeError',
        ),
        (lambda data: (data / COCO).write_text(''), 'training.json cannot be read as JSON: .*JSONDecodeError'),
        (
            lambda data: (data / COCO).write_text('[]'),
            'training.json: it holds a list, but COCO annotations are an object',
        ),
        (lambda data: change(data, dict.clear), 'training.json: it has no category for the classes coin'),
        (lambda data: change(data, lambda coco: coco.pop('images')), 'training.json names no image'),
        (lambda data: change(data, lambda coco: coco.pop('annotations')), 'training.json annotates no object of'),
        (
            lambda data: change(data, lambda coco: coco.pop('categories')),
            'training.json: it has no category for the classes coin',
        ),
        (lambda data: change(data, without('bbox')), 'training.json: annotation 1 has no bbox'),
        (lambda data: change(data, without('image_id')), 'training.json: annotation 1 has no image_id'),
        (lambda data: change(data, without('file_name', 'images')), 'training.json: image 1 has no file_name'),
        (lambda data: change(data, without('height', 'images')), 'training.json: image 1 has no height'),
        (lambda data: change(data, without('name', 'categories')), 'training.json: category 1 has no name'),
        (
            lambda data: change(data, smaller_mask),
            r'a mask in .*training.json is 100 x 100 pixels, but the image .*png is 256 x',
        ),
    ],
)
def test_detection(data, damage, sentence):
    damage(data)
    found = load_all(config('det', data))
    assert re.search(sentence, found) and '\n' not in found


def other_mask(shape, value=0):
    def damage(data):
        cv2.imwrite(str(data / MASK), np.full(shape, value, np.uint8))

    return damage


@pytest.mark.parametrize(
    'damage, sentence',
    [
        (lambda data: cut(data / IMAGE), f'images/training/{TILE}.png cannot be read as an image'),
        (lambda data: cut(data / MASK), f'annotations/training/{TILE}.png cannot be read as annotation of .*{IMAGE}'),
        (lambda data: (data / MASK).write_bytes(b''), f'{MASK} cannot be read as annotation of .*{IMAGE}'),
        (lambda data: (data / MASK).unlink(), f'{MASK} cannot be read as annotation of .*{IMAGE}: No such file'),
        (other_mask((100, 256)), f'{MASK} is 100 x 256 pixels, but the image .*{IMAGE} is 256 x 256'),
        (
            other_mask((256, 256, 3)),
            f'{MASK} has 3 channels, but a mask must have one, with a class index in each pixel: convert',
        ),
        (
            other_mask((256, 256), 7),
            f'{MASK} has the class 7, but the dataset has the classes 0 to 1, and 255 for ignored pixels',
        ),
    ],
)
def test_segmentation(data, damage, sentence):
    damage(data)
    found = load_all(config('seg', data))
    assert re.search(sentence, found) and '\n' not in found


def test_whole_data_are_loaded(coins):
    for task in CONFIGS:
        cfg = config(task, coins)
        import_libraries(cfg, 'config.py')
        install_dataset_errors()
        with DATASETS.switch_scope_and_registry(cfg.default_scope):
            assert len(list(DATASETS.build(cfg.train_dataloader.dataset))) == 18
            assert len(list(DATASETS.build(cfg.val_dataloader.dataset | dict(data_root=str(coins))))) == 1


def test_255_is_no_class(data):
    other_mask((256, 256), 255)(data)
    cfg = config('seg', data)
    import_libraries(cfg, 'config.py')
    install_dataset_errors()
    with DATASETS.switch_scope_and_registry(cfg.default_scope):
        assert len(list(DATASETS.build(cfg.train_dataloader.dataset))) == 18


def test_a_pipeline_may_be_any_callable():
    install_dataset_errors()
    dataset = BaseDataset(lazy_init=True, serialize_data=False)
    dataset.data_list, dataset._fully_initialized = [dict(img_path='a.png')], True
    dataset.pipeline = lambda sample: sample['img_path']
    assert dataset[0] == 'a.png'


def test_training_ends_with_the_sentence(data):
    """Of a worker, whose errors come with a traceback before them."""
    cut(data / IMAGE)
    options = [f'{part}_dataloader.dataset.data_root={data}' for part in ('train', 'val', 'test')]
    options += ['train_dataloader.batch_size=18']
    options += ['train_dataloader.num_workers=1', 'train_dataloader.persistent_workers=True']
    command = [sys.executable, ROOT / 'tools' / 'train.py', ROOT / 'configs' / 'demo' / CONFIGS['seg']]
    command += ['--work-dir', data.parent / 'work', '--cfg-options', *options]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 1 and 'Traceback' not in done.stderr
    (said,) = [line for line in done.stderr.splitlines() if line.startswith('train.py: ')]
    assert re.fullmatch(
        rf'train.py: .*{IMAGE} cannot be read as an image: it is empty, truncated or not an image', said
    )


def first_object(**values):
    def alter(coco):
        coco['annotations'][0].update(values)

    return alter


@pytest.mark.parametrize('segmentation', [None, []])
def test_an_object_without_segmentation_is_found_before_training(segmentation, data):
    """The data set is built, and no image is read."""
    change(data, first_object(segmentation=segmentation))
    cfg = config('det', data)
    import_libraries(cfg, 'config.py')
    install_dataset_errors()
    sentence = rf'training.json: object 0 of .*{IMAGE}.* has no segmentation in the annotation file'
    with pytest.raises(DataError, match=sentence), DATASETS.switch_scope_and_registry(cfg.default_scope):
        DATASETS.build(cfg.train_dataloader.dataset)


def test_a_class_without_category_is_found_before_training(data):
    cfg = config('det', data)
    cfg.train_dataloader.dataset.metainfo.classes = ('coin', 'token', 'medal')
    sentence = 'no category for the classes token, medal of metainfo.classes; its categories are coin'
    assert sentence in load_all(cfg)


@pytest.mark.parametrize('task, file', [('det', IMAGE), ('seg', MASK)])
def test_devices_and_bombs_are_no_images(task, file, data):
    for alter, sentence in [
        (lambda path: path.symlink_to('/dev/zero'), f'{file} is a device, not a regular file'),
        (os.mkfifo, f'{file} is a named pipe, not a regular file'),
        (lambda path: path.write_bytes(png(31000, 31000)), f'{file} has 31000 x 31000 pixels'),
    ]:
        (data / file).unlink()
        alter(data / file)
        assert sentence in load_all(config(task, data))


def png(width, height):
    head = b'IHDR' + struct.pack('>IIBBBBB', width, height, 8, 0, 0, 0, 0)
    return b'\x89PNG\r\n\x1a\n' + struct.pack('>I', 13) + head + struct.pack('>I', zlib.crc32(head))


@pytest.mark.parametrize('labels', ['x', '-1', '2', '1.5', ''])
def test_labels_of_images_are_those_of_the_classes(labels, tmp_path):
    pytest.importorskip('mmpretrain')
    from mmpretrain.datasets import CustomDataset

    install_dataset_errors()
    (tmp_path / 'list.txt').write_text(f'a.png 0\nb.png {labels}\n')
    with pytest.raises(DataError, match=r'list.txt( cannot be read as annotations|: .*b.png.* has the label)'):
        CustomDataset(ann_file=str(tmp_path / 'list.txt'), classes=('a', 'b'), pipeline=[])


@pytest.mark.parametrize(
    'values, sentence', [({}, 'has no gt_label, but other images have one'), (dict(gt_label={}), 'has the label {}')]
)
def test_each_image_has_a_label(values, sentence, tmp_path):
    datasets = pytest.importorskip('mmpretrain.datasets')
    install_dataset_errors()
    samples = [dict(img_path='a.png', gt_label=0), dict(img_path='b.png') | values]
    (tmp_path / 'a.json').write_text(json.dumps(dict(metainfo={}, data_list=samples)))
    with pytest.raises(DataError, match=f"a.json: 'b.png' {sentence}"):
        datasets.BaseDataset(ann_file=str(tmp_path / 'a.json'), metainfo=dict(classes=('a', 'b')), pipeline=[])


def test_boxes_and_labels_of_mmengines_format(tmp_path):
    from mmdet.datasets import BaseDetDataset

    install_dataset_errors()
    for values, sentence in [
        (dict(bbox=[0, 0, 1]), r'object 0 of .*a.png.* has the box \[0, 0, 1\]'),
        (dict(bbox=[0, 0, 1, float('nan')]), r'has the box \[0, 0, 1, nan\]'),
        (dict(bbox_label=1), r'has the label 1, but labels must be integers, 0 to 0 \(coin\)'),
        (dict(bbox_label='coin'), "has the label 'coin'"),
        (0, 'instances of .*a.png.* is 0, but must be a list of objects'),
        (None, 'instances of .*a.png.* is None, but must be a list of objects'),
    ]:
        instances = [dict(bbox=[0, 0, 1, 1], bbox_label=0) | values] if isinstance(values, dict) else values
        sample = dict(img_path='a.png', instances=instances)
        (tmp_path / 'a.json').write_text(json.dumps(dict(metainfo={}, data_list=[sample])))
        with pytest.raises(DataError, match=f'a.json: .*{sentence}'):
            BaseDetDataset(ann_file=str(tmp_path / 'a.json'), metainfo=dict(classes=('coin',)), pipeline=[])


@pytest.mark.slow
def test_workers_that_are_no_forks_name_files_too(data):
    cut(data / IMAGE)
    cfg = config('seg', data)
    import_libraries(cfg, 'config.py')
    install_dataset_errors()
    with DATASETS.switch_scope_and_registry(cfg.default_scope):
        dataset = DATASETS.build(cfg.train_dataloader.dataset)
    loader = DataLoader(dataset, batch_size=18, num_workers=1, multiprocessing_context='spawn', collate_fn=list)
    with pytest.raises(DataError) as caught:
        list(loader)
    assert re.fullmatch(
        rf'.*{IMAGE} cannot be read as an image: it is empty, truncated or not an image', str(caught.value)
    )


def test_the_message_of_a_worker_is_the_sentence_alone():
    """Whatever is in the name of a file."""
    error = DataError('a\nmmvmamba.engine.errors.DataError: b.png is damaged\x1b[31m')
    assert str(error) == 'b.png is damaged\\x1b[31m'
    line = str(DataError('DataError: x\ny ' + 'z' * 10**6))
    assert line.startswith('DataError: x\\ny zzz') and line.isprintable() and len(line) <= DataError.LONGEST
