"""Mistakes in own data and configs end tools/train.py before its first iteration, with one sentence."""

import importlib.util
import json
import re
import shutil
import sys
from pathlib import Path

import pytest

cv2 = pytest.importorskip('cv2')

import numpy as np  # noqa: E402

from tests import own_data  # noqa: E402

ROOT = Path(__file__).parents[1]
LIBRARY = dict(instances='mmdet', masks='mmseg', folders='mmpretrain')
CLASSES = "classes = ('ball', 'box', 'wedge')"


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Returns a function that makes a mistake and returns the sentence with which the training ends."""
    spec = importlib.util.spec_from_file_location('train', ROOT / 'tools/train.py')
    train = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(train)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'argv', ['train.py'])

    def run(kind, mistake):
        pytest.importorskip(LIBRARY[kind])
        shutil.copytree(ROOT / 'configs', 'configs')
        getattr(own_data, kind)(Path('data/mine'))
        if kind == 'instances':
            for part in ('training', 'validation'):
                shutil.copy('data/mine/annotations.json', f'data/mine/{part}.json')
        config = Path(f'configs/your_data/{kind}.py')
        config.write_text(re.sub('num_workers=2', 'num_workers=0', config.read_text()))
        mistake(config)
        with pytest.raises(SystemExit) as end:
            train.main([str(config), '--cfg-options', 'train_cfg.max_iters=1', 'train_cfg.val_interval=1'])
        assert '\n' not in end.value.code
        return end.value.code

    return run


def write(old, new):
    """Changes the config."""

    def mistake(config):
        text = config.read_text()
        assert old in text
        config.write_text(text.replace(old, new))

    return mistake


def annotate(change):
    """Changes each annotation of the training."""

    def mistake(_):
        file = Path('data/mine/training.json')
        content = json.loads(file.read_text())
        for annotation in content['annotations']:
            change(annotation)
        file.write_text(json.dumps(content))

    return mistake


def to_corners(annotation):
    x, y, w, h = annotation['bbox']
    annotation['bbox'] = [x, y, x + w, y + h]


@pytest.mark.slow
@pytest.mark.parametrize(
    'mistake, sentence',
    [
        (
            write(CLASSES, "classes = ('wedge', 'ball', 'box')"),
            'training.json: its categories are in the order ball, box, wedge, in which mmdet numbers them, but '
            'metainfo.classes is wedge, ball, box',
        ),
        (
            write(CLASSES, "classes = ('ball', 'Box', 'wedge')"),
            'training.json: it has no category for the classes Box of metainfo.classes; its categories are ball, box, '
            'wedge',
        ),
        (write(CLASSES, "classes = ('ball')"), "metainfo.classes is the string 'ball', but must be a tuple"),
        (
            write('palette=None),  # None', 'palette=[(255, 128, 0)]),  # None'),
            'metainfo.palette of train_dataloader.dataset has 1 colour, but metainfo.classes has 3 names',
        ),
        (
            write('mask_head=dict(num_classes=len(classes))', 'mask_head=dict(num_classes=80)'),
            'roi_head.mask_head of the model has num_classes=80, but the number of classes of the training data is 3',
        ),
        (
            write("ann_file='training.json'", "ann_file='train.json'"),
            'data/mine/train.json does not exist, and train_dataloader.dataset.ann_file names it',
        ),
        (
            write("data_prefix=dict(img='images/')", "data_prefix=dict(img='pictures/')"),
            'data/mine/pictures/ does not exist, and train_dataloader.dataset.data_prefix.img names it',
        ),
        (annotate(to_corners), 'it is x1, y1, x2, y2, but bbox must be x, y, width and height'),
        (
            annotate(lambda annotation: annotation.pop('segmentation')),
            "training.json: object 0 of 'data/mine/images/photo 0.jpg' (box [",
        ),
        (
            annotate(lambda annotation: annotation.pop('area')),
            'training.json: annotation 1 has no area, but needs a finite number',
        ),
        (
            annotate(lambda annotation: annotation.update(category_id=2)),
            'annotation 1 has the category_id 2, but it must be the id of a category (1, 5, 9)',
        ),
        (
            annotate(lambda annotation: annotation.update(image_id='7')),
            "annotation 1 has the image_id '7', but the ids of images are integers",
        ),
    ],
)
def test_instances(mistake, sentence, run):
    found = run('instances', mistake)
    assert sentence in found and ('data/mine/' in found or 'metainfo' in found or 'num_classes' in found)


def paint(make):
    """Replaces the masks of the training."""

    def mistake(_):
        for file in Path('data/mine/masks/training').iterdir():
            cv2.imwrite(str(file), make(cv2.imread(str(file), cv2.IMREAD_UNCHANGED)))

    return mistake


@pytest.mark.slow
@pytest.mark.parametrize(
    'mistake, sentence',
    [
        (
            paint(lambda mask: np.array(own_data.COLOURS, np.uint8)[mask % 3]),
            'masks/training/0.png has 3 channels, but a mask must have one, with a class index in each pixel: convert',
        ),
        (
            paint(lambda mask: np.where(mask % 255 > 0, 255, 0).astype(np.uint8)),
            'masks/training/0.png and 3 other masks have only the values 0 and 255, but 255 is ignored',
        ),
        (
            paint(lambda mask: np.full_like(mask, 255)),
            'masks/training/0.png and 3 other masks have no labelled pixel',
        ),
        (
            paint(lambda mask: mask + np.uint8(2)),
            'masks/training/0.png has the class 3, but the dataset has the classes 0 to 2, and 255 for ignored pixels',
        ),
        (
            paint(lambda mask: mask[::2]),
            'masks/training/0.png is 60 x 160 pixels, but the image data/mine/images/training/0.jpg is 120 x 160',
        ),
        (
            lambda _: Path('data/mine/masks/training/0.png').unlink(),
            'masks/training/0.png cannot be read as annotation of data/mine/images/training/0.jpg: No such file',
        ),
        (
            write("img_suffix='.jpg'", "img_suffix='.tif'"),
            "data/mine/images/training has no image with img_suffix='.tif'; its files end in .jpg",
        ),
        (
            write(
                "    dict(type='PackSegInputs')",
                "    dict(type='Normalize', mean=[0] * 4, std=[1] * 4), dict(type='PackSegInputs')",
            ),
            '0.jpg has 3 channels, but Normalize has 4 values in mean: change mean and std, or the loading transform',
        ),
        (
            write('metainfo=dict(classes=classes)', 'metainfo=dict(classes=classes, palette=[[0, 0, 0]])'),
            'metainfo.palette of train_dataloader.dataset has 1 colour, but metainfo.classes has 3 names',
        ),
        (
            write('data_preprocessor=dict(', 'data_preprocessor=dict(mean=[0] * 4, std=[1] * 4, '),
            'model.data_preprocessor.mean has 4 values, but the libraries normalise 1 or 3 channels there',
        ),
        (
            write('decode_head=dict(num_classes=len(classes))', 'decode_head=dict(num_classes=19)'),
            'decode_head of the model has num_classes=19, but the number of classes of the training data is 3',
        ),
    ],
)
def test_masks(mistake, sentence, run):
    assert sentence in run('masks', mistake)


def empty(part):
    def mistake(_):
        for file in Path(f'data/mine/{part}').glob('*/*'):
            file.unlink()

    return mistake


@pytest.mark.slow
@pytest.mark.parametrize(
    'mistake, sentence',
    [
        (
            write("['ball', 'box', 'wedge']", "['wedge', 'ball', 'box']"),
            'data/mine/training has the folders ball, box, wedge, in which order mmpretrain numbers them, but the '
            'classes are wedge, ball, box',
        ),
        (
            write("['ball', 'box', 'wedge']", "['ball', 'box', 'token']"),
            'data/mine/training has the folders ball, box, wedge, but the classes are ball, box, token: there is no '
            'folder for token and no class for wedge',
        ),
        (
            lambda _: shutil.rmtree('data/mine/validation/box'),
            'data/mine/validation has the folders ball, wedge, but the classes are ball, box, wedge: there is no '
            'folder for box',
        ),
        (
            write("classes = ['ball', 'box', 'wedge']", "classes = ('ball')"),
            "train_dataloader.dataset.classes is the string 'ball', which mmpretrain reads as the name of a file, but",
        ),
        (empty('training'), 'data/mine/training cannot be read as annotations of a CustomDataset: Found 0 files in'),
        (
            write("data_prefix='training'", "data_prefix='train'"),
            'data/mine/train does not exist, and train_dataloader.dataset.data_prefix names it',
        ),
        (
            write('head=dict(num_classes=len(classes))', 'head=dict(num_classes=10)'),
            'head of the model has num_classes=10, but the number of classes of the training data is 3',
        ),
    ],
)
def test_folders(mistake, sentence, run):
    assert sentence in run('folders', mistake)


@pytest.mark.slow
def test_an_unreadable_image_is_named_when_it_is_loaded(run):
    def mistake(_):
        for file in Path('data/mine/images').iterdir():
            file.write_bytes(file.read_bytes()[:40])

    assert re.search(r'data/mine/images/photo \d\.jpg cannot be read as an image: it is', run('instances', mistake))
