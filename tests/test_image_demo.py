"""demo/image_demo.py on tiny models of each library: what it writes is what the model found."""

import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS

cv2 = pytest.importorskip('cv2')
pytest.importorskip('mmdet')

from mmvmamba.engine.inference import class_map  # noqa: E402
from mmvmamba.engine.libraries import register_modules  # noqa: E402

SCRIPT = Path(__file__).parents[1] / 'demo' / 'image_demo.py'

HEAD = """
custom_imports = dict(imports=['mmvmamba'], allow_failed_imports=False)
backbone = dict(type='VMamba', arch=dict(dims=8, depths=(1, 1, 1, 1), ssm_ratio=1.0), out_indices=(2, 3))
"""
DETECTOR = """
default_scope = 'mmdet'
model = dict(
    type='RetinaNet',
    data_preprocessor=dict(type='DetDataPreprocessor', mean=[127.0] * 3, std=[60.0] * 3, pad_size_divisor=32),
    backbone=backbone,
    neck=dict(type='FPN', in_channels=[32, 64], out_channels=8, num_outs=2),
    bbox_head=dict(
        type='RetinaHead', num_classes=2, in_channels=8, feat_channels=8, stacked_convs=1,
        anchor_generator=dict(type='AnchorGenerator', scales=[2], ratios=[1.0], strides=[16, 32]),
        bbox_coder=dict(type='DeltaXYWHBBoxCoder')),
    test_cfg=dict(nms_pre=10, score_thr=0.0, nms=dict(type='nms', iou_threshold=0.5), max_per_img=5))
pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(64, 64)),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))]
test_dataloader = dict(dataset=dict(type='CocoDataset', ann_file='', pipeline=pipeline, metainfo=dict(
    classes=('a', 'b'), palette=[(255, 0, 0), (0, 255, 0)])))
"""
SEGMENTOR = """
default_scope = 'mmseg'
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(type='SegDataPreProcessor', mean=[127.0] * 3, std=[60.0] * 3, pad_val=0, seg_pad_val=255),
    backbone=backbone,
    decode_head=dict(type='FCNHead', in_channels=64, in_index=1, channels=8, num_convs=1, num_classes=2),
    test_cfg=dict(mode='whole'))
test_dataloader = dict(dataset=dict(type='BaseSegDataset', pipeline=[
    dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), dict(type='PackSegInputs')]))
"""
CLASSIFIER = """
default_scope = 'mmpretrain'
model = dict(
    type='ImageClassifier', backbone=backbone, neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=2, in_channels=64))
data_preprocessor = dict(num_classes=2, mean=[127.0] * 3, std=[60.0] * 3)
test_dataloader = dict(dataset=dict(
    type='CustomDataset', classes=['a', 'b'], pipeline=[dict(type='LoadImageFromFile'), dict(type='PackInputs')]))
"""
MODEL = dict(detector=DETECTOR, segmentor=SEGMENTOR, classifier=CLASSIFIER)
LIBRARY = dict(detector='mmdet', segmentor='mmseg', classifier='mmpretrain')


@pytest.fixture(scope='module')
def demo():
    spec = importlib.util.spec_from_file_location('image_demo', SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return lambda *arguments: module.main([str(argument) for argument in arguments])


@pytest.fixture(scope='module', params=MODEL)
def model(request, tmp_path_factory):
    """Kind, config and checkpoint of a model with random weights and named classes."""
    pytest.importorskip(LIBRARY[request.param])
    folder = tmp_path_factory.mktemp(request.param)
    config = folder / 'config.py'
    config.write_text(HEAD + MODEL[request.param])
    torch.manual_seed(0)
    register_modules(LIBRARY[request.param])
    built = MODELS.build(dict(Config.fromfile(config).model, _scope_=LIBRARY[request.param]))
    built.init_weights()
    meta = dict(dataset_meta=dict(classes=('a', 'b'), palette=[(255, 0, 0), (0, 255, 0)]))
    torch.save(dict(state_dict=built.state_dict(), meta=meta), folder / 'model.pth')
    return request.param, config, folder / 'model.pth'


@pytest.fixture(scope='module')
def images(tmp_path_factory):
    """Two images of one size, and one of another size below."""
    folder = tmp_path_factory.mktemp('images')
    (folder / 'more').mkdir()
    numbers = np.random.default_rng(0)
    for name, shape in (('0.png', (64, 64, 3)), ('1.jpg', (64, 64, 3)), ('more/0.png', (64, 96, 3))):
        cv2.imwrite(str(folder / name), numbers.integers(0, 256, shape, np.uint8))
    (folder / 'notes.txt').write_text('no image')
    return folder


def files_below(folder):
    return {str(file.relative_to(folder)) for file in folder.rglob('*') if file.is_file()}


def test_pattern(demo, model, images, tmp_path):
    kind, config, checkpoint = model
    options = ['--out-dir', tmp_path, '--device', 'cpu', '--batch-size', 2, '--score-thr', 0]
    demo(images / '**/*.*g', config, checkpoint, *options)
    names = {'0.png', '1.png', 'more/0.png'}
    written = {f'pictures/{name}' for name in names}
    written |= {f'labels/{name}' for name in names} if kind == 'segmentor' else {'predictions.json'}
    assert files_below(tmp_path) == written
    assert cv2.imread(str(tmp_path / 'pictures/more/0.png')).shape == (64, 96, 3)
    if kind == 'segmentor':
        assert set(np.unique(cv2.imread(str(tmp_path / 'labels/more/0.png'), cv2.IMREAD_UNCHANGED))) <= {0, 1}
    elif kind == 'classifier':
        predictions = json.loads((tmp_path / 'predictions.json').read_text())
        assert [entry['file_name'] for entry in predictions] == ['0.png', '1.jpg', 'more/0.png']
        assert all(entry['class'] == 'ab'[entry['label']] and entry['score'] >= 0.5 for entry in predictions)
    else:
        from pycocotools.coco import COCO

        coco = COCO(tmp_path / 'predictions.json')
        assert [image['file_name'] for image in coco.loadImgs(coco.getImgIds())] == ['0.png', '1.jpg', 'more/0.png']
        assert [category['name'] for category in coco.loadCats(coco.getCatIds())] == ['a', 'b']
        assert all(coco.getAnnIds(imgIds=[image]) for image in coco.getImgIds())


def test_one_image_as_in_a_batch(demo, model, images, tmp_path):
    """Neither the batch nor the folder changes what is found."""
    kind, config, checkpoint = model
    demo(images, config, checkpoint, '--out-dir', tmp_path / 'folder', '--device', 'cpu', '--batch-size', 2)
    demo(images / '1.jpg', config, checkpoint, '--out-dir', tmp_path / 'one', '--device', 'cpu')
    pictures = [cv2.imread(str(tmp_path / part / 'pictures/1.png')).astype(int) for part in ('folder', 'one')]
    assert abs(pictures[0] - pictures[1]).max() <= 2
    assert abs(pictures[0] - cv2.imread(str(images / '1.jpg'))).max() > 50 or kind == 'detector', 'something is drawn'


def test_label_maps_of_many_classes():
    for labels, dtype in (([0, 255], np.uint8), ([0, 256, 300], np.uint16)):
        data = SimpleNamespace(data=torch.tensor(labels)[None, None])
        found = class_map(SimpleNamespace(pred_sem_seg=data))
        assert found.dtype == dtype and found.tolist() == [labels]


def test_video(demo, model, tmp_path):
    kind, config, checkpoint = model
    writer = cv2.VideoWriter(str(tmp_path / 'clip.mp4'), cv2.VideoWriter_fourcc(*'mp4v'), 5, (64, 64))
    for shade in range(0, 250, 50):
        writer.write(np.full((64, 64, 3), shade, np.uint8))
    writer.release()
    demo(tmp_path / 'clip.mp4', config, checkpoint, '--out-dir', tmp_path / 'out', '--device', 'cpu', '--batch-size', 2)
    video = cv2.VideoCapture(str(tmp_path / 'out/pictures/clip.mp4'))
    assert (video.get(cv2.CAP_PROP_FRAME_COUNT), video.get(cv2.CAP_PROP_FPS)) == (5, 5)
    if kind == 'segmentor':
        expected = {'pictures/clip.mp4'} | {f'labels/clip/{number:06}.png' for number in range(5)}
        assert files_below(tmp_path / 'out') == expected


def test_refusals_are_one_sentence(demo, model, images, tmp_path):
    _, config, checkpoint = model
    (tmp_path / 'broken.jpg').write_text('no image')
    with pytest.raises(SystemExit, match=r'broken\.jpg cannot be read as an image'):
        demo(tmp_path / 'broken.jpg', config, checkpoint, '--out-dir', tmp_path, '--device', 'cpu')
    with pytest.raises(SystemExit, match='--batch-size 0 must be 1 or more'):
        demo(images, config, checkpoint, '--batch-size', 0)
    with pytest.raises(SystemExit, match='is no image or video, no folder of any'):
        demo(images / '*.gif', config, checkpoint)
    (tmp_path / 'x.jpg').touch()
    (tmp_path / 'x.png').touch()
    with pytest.raises(SystemExit, match='have one name in the output'):
        demo(tmp_path, config, checkpoint)
    whole = torch.load(checkpoint)['state_dict']
    torch.save({name: whole[name] for name in whole if name.startswith('backbone.')}, tmp_path / 'part.pth')
    with pytest.raises(SystemExit, match=r'part\.pth does not fit the model of this config: it has \d+ of the \d+'):
        demo(images / '0.png', config, tmp_path / 'part.pth', '--out-dir', tmp_path)
