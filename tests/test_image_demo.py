"""Tests demo/image_demo.py on tiny models of each library: the written files match the predictions."""

import importlib.util
import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS

cv2 = pytest.importorskip('cv2')
pytest.importorskip('mmdet')

from mmvmamba.engine.inference import class_map, displayable  # noqa: E402
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
    """Returns kind, config and checkpoint of a model with random weights and named classes."""
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
    """Two images of one size, and one of another size in a subfolder."""
    folder = tmp_path_factory.mktemp('images')
    (folder / 'more').mkdir()
    numbers = np.random.default_rng(0)
    for name, shape in (('0.png', (64, 64, 3)), ('1.jpg', (64, 64, 3)), ('more/0.png', (64, 96, 3))):
        cv2.imwrite(str(folder / name), numbers.integers(0, 256, shape, np.uint8))
    (folder / 'notes.txt').write_text('no image')
    return folder


def files_below(folder):
    return {str(file.relative_to(folder)) for file in folder.rglob('*') if file.is_file()}


def test_images_of_a_glob_pattern_are_processed(demo, model, images, tmp_path):
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


def test_the_number_of_objects_is_reported(demo, model, images, tmp_path, capsys):
    kind, config, checkpoint = model
    for score_thr in (0, 1):
        demo(images / '**/*.*g', config, checkpoint, '--out-dir', tmp_path, '--device', 'cpu', '--score-thr', score_thr)
    last = [line for line in capsys.readouterr().out.splitlines() if line.startswith('Written to')]
    if kind != 'detector':
        assert last == [f'Written to {tmp_path}'] * 2
        return
    assert re.fullmatch(
        r'.*: [1-9]\d* objects with a score of at least 0\.0 in 3 images, 0 of them without.*object', last[0]
    )
    assert last[1].endswith(
        ': 0 objects with a score of at least 1.0 in 3 images, 3 of them without an object. '
        'Lower --score-thr to draw more'
    )


def test_single_image_gives_the_same_result_as_a_batch(demo, model, images, tmp_path):
    """Neither the batch nor the folder affects the predictions."""
    kind, config, checkpoint = model
    demo(images, config, checkpoint, '--out-dir', tmp_path / 'folder', '--device', 'cpu', '--batch-size', 2)
    demo(images / '1.jpg', config, checkpoint, '--out-dir', tmp_path / 'one', '--device', 'cpu')
    pictures = [cv2.imread(str(tmp_path / part / 'pictures/1.png')).astype(int) for part in ('folder', 'one')]
    assert abs(pictures[0] - pictures[1]).max() <= 2
    assert abs(pictures[0] - cv2.imread(str(images / '1.jpg'))).max() > 50 or kind == 'detector', 'something is drawn'


def test_label_map_dtype_holds_all_class_ids():
    for labels, dtype in (([0, 255], np.uint8), ([0, 256, 300], np.uint16)):
        data = SimpleNamespace(data=torch.tensor(labels)[None, None])
        found = class_map(SimpleNamespace(pred_sem_seg=data))
        assert found.dtype == dtype and found.tolist() == [labels]


def test_video_is_processed(demo, model, tmp_path):
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


def test_errors_are_one_sentence(demo, model, images, tmp_path):
    _, config, checkpoint = model
    (tmp_path / 'broken.jpg').write_text('no image')
    with pytest.raises(SystemExit, match=r'broken\.jpg cannot be read as an image'):
        demo(tmp_path / 'broken.jpg', config, checkpoint, '--out-dir', tmp_path, '--device', 'cpu')
    with pytest.raises(SystemExit, match='--batch-size 0 must be 1 or more'):
        demo(images, config, checkpoint, '--batch-size', 0)
    with pytest.raises(SystemExit, match='is not an image or video, a folder with one'):
        demo(images / '*.gif', config, checkpoint)
    (tmp_path / 'x.jpg').touch()
    (tmp_path / 'x.png').touch()
    with pytest.raises(SystemExit, match='would have the same name in the output'):
        demo(tmp_path, config, checkpoint)
    whole = torch.load(checkpoint)['state_dict']
    torch.save({name: whole[name] for name in whole if name.startswith('backbone.')}, tmp_path / 'part.pth')
    with pytest.raises(SystemExit, match=r'part\.pth does not fit the model of this config: it has \d+ of the \d+'):
        demo(images / '0.png', config, tmp_path / 'part.pth', '--out-dir', tmp_path)


# Heads of other kinds and sizes

MULTI_LABEL = CLASSIFIER.replace('LinearClsHead', 'MultiLabelLinearClsHead')


def save_model(folder, library, config, change=lambda model: None, meta=None):
    """Writes the config and a checkpoint with random weights and, if given, the class names."""
    pytest.importorskip(library)
    folder.joinpath('config.py').write_text(HEAD + config)
    torch.manual_seed(0)
    register_modules(library)
    built = MODELS.build(dict(Config.fromfile(folder / 'config.py').model, _scope_=library))
    built.init_weights()
    change(built)
    torch.save(dict(state_dict=built.state_dict(), meta=meta or {}), folder / 'model.pth')
    return folder / 'config.py', folder / 'model.pth'


def biases(head, **logits):
    """Makes a head predict these labels for every image."""

    def change(model):
        layer = model.get_submodule(head)
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.constant_(layer.bias, -20.0)
        with torch.no_grad():
            for label, logit in logits.items():
                layer.bias[int(label[1:])] = logit

    return change


def drawn_pixels(folder, images, name='0.png'):
    return (cv2.imread(str(folder / 'pictures' / name)).astype(int) != cv2.imread(str(images / name))).any(-1).sum()


def test_all_labels_of_a_multi_label_classifier_are_written(demo, images, tmp_path):
    """Labels are sorted by score; the threshold of the command applies, not that of the head."""
    config, checkpoint = save_model(
        tmp_path,
        'mmpretrain',
        MULTI_LABEL.replace('num_classes=2', 'num_classes=5'),
        biases('head.fc', _1=3.0, _3=-0.5),
    )
    found, drawn = {}, {}
    for thr in (0.3, 0.5, 0.99):
        out = tmp_path / str(thr)
        demo(images / '0.png', config, checkpoint, '--out-dir', out, '--device', 'cpu', '--score-thr', thr)
        [entry] = json.loads((out / 'predictions.json').read_text())
        assert entry.keys() == {'file_name', 'labels'}
        found[thr] = [(each['label'], each['class'], round(each['score'], 3)) for each in entry['labels']]
        drawn[thr] = drawn_pixels(out, images)
    assert found[0.3] == [(1, 'b', 0.953), (3, 'class 3', 0.378)]
    assert found[0.5] == found[0.3][:1] and found[0.99] == []
    assert drawn[0.3] > drawn[0.5] > drawn[0.99]


MORE_CLASSES = {
    'mmpretrain': (CLASSIFIER, 'head.fc'),
    'mmseg': (SEGMENTOR, 'decode_head.conv_seg'),
    'mmdet': (DETECTOR, 'bbox_head.retina_cls'),
}


@pytest.mark.parametrize('meta', ['two names', 'two names without colours', 'no names'])
@pytest.mark.parametrize('library', MORE_CLASSES)
def test_class_without_a_name_is_shown_by_its_number(demo, library, meta, images, tmp_path):
    text, head = MORE_CLASSES[library]
    names = dict(dataset_meta=dict(classes=('a', 'b'), palette=[(255, 0, 0), (0, 255, 0)]))
    if meta == 'two names without colours':
        del names['dataset_meta']['palette']
    config, checkpoint = save_model(
        tmp_path,
        library,
        text.replace('num_classes=2', 'num_classes=200').replace("classes=['a', 'b']", 'with_label=True'),
        biases(head, _137=9.0),
        names if meta != 'no names' else None,
    )
    demo(images / '0.png', config, checkpoint, '--out-dir', tmp_path, '--device', 'cpu')
    assert drawn_pixels(tmp_path, images) > 100
    if library == 'mmseg':
        assert set(np.unique(cv2.imread(str(tmp_path / 'labels/0.png'), cv2.IMREAD_UNCHANGED))) == {137}
        return
    found = json.loads((tmp_path / 'predictions.json').read_text())
    if library == 'mmpretrain':
        assert found[0]['label'] == 137
        assert found[0].get('class') == (None if meta == 'no names' else 'class 137')
    else:
        categories = {category['id']: category['name'] for category in found['categories']}
        assert {categories[each['category_id']] for each in found['annotations']} == {'class 137'}
        assert categories[2] == 'b'


NOT_SHOWN = {
    'ImageToImageRetriever': """
model = dict(
    type='ImageToImageRetriever', image_encoder=[backbone, dict(type='GlobalAveragePooling')],
    head=dict(type='LinearClsHead', num_classes=2, in_channels=64), prototype='prototypes.pth')
""",
    'MultiTaskHead': """
model = dict(
    type='ImageClassifier', backbone=backbone, neck=dict(type='GlobalAveragePooling'), head=dict(
        type='MultiTaskHead', in_channels=64, task_heads=dict(
            shape=dict(type='LinearClsHead', num_classes=2), colour=dict(type='LinearClsHead', num_classes=3))))
""",
    'SimCLR': """
model = dict(
    type='SimCLR', data_preprocessor=dict(type='SelfSupDataPreprocessor'), backbone=backbone,
    neck=dict(type='NonLinearNeck', in_channels=64, hid_channels=8, out_channels=8),
    head=dict(type='ContrastiveHead', loss=dict(type='CrossEntropyLoss'), temperature=0.1))
""",
    'LinearRegressionHead': CLASSIFIER.partition('data_preprocessor')[0].replace('LinearCls', 'LinearRegression'),
}


@pytest.mark.parametrize('kind', NOT_SHOWN)
def test_model_for_an_unsupported_task_raises_a_one_sentence_error(demo, kind, images, tmp_path):
    rest = "default_scope = 'mmpretrain'\ndata_preprocessor" + CLASSIFIER.partition('data_preprocessor')[2]
    if kind == 'LinearRegressionHead' and not hasattr(pytest.importorskip('mmpretrain.models'), 'RegressionHead'):
        pytest.skip('the original mmpretrain has no such head')
    config, checkpoint = save_model(tmp_path, 'mmpretrain', NOT_SHOWN[kind] + rest)
    with pytest.raises(
        SystemExit, match=f': {kind} does not classify images: .* evaluate this model with tools/test.py$'
    ):
        demo(images / '0.png', config, checkpoint, '--out-dir', tmp_path / 'out', '--device', 'cpu')
    assert not (tmp_path / 'out').exists()


def test_error_names_a_prediction_that_cannot_be_drawn(demo, images, tmp_path):
    """A depth estimator of mmseg predicts a map of numbers instead of classes."""
    from mmengine.structures import PixelData

    models = pytest.importorskip('mmseg.models')
    from mmseg.registry import MODELS as REGISTRY

    @REGISTRY.register_module(force=True)
    class Depths(models.EncoderDecoder):
        def postprocess_result(self, logits, samples):
            for sample in samples:
                sample.pred_depth_map = PixelData(data=logits[0, :1])
            return samples

    config, checkpoint = save_model(tmp_path, 'mmseg', SEGMENTOR.replace('EncoderDecoder', 'Depths'))
    with pytest.raises(SystemExit, match='Depths predicts pred_depth_map: the demos support detectors, segmentors and'):
        demo(images / '0.png', config, checkpoint, '--out-dir', tmp_path / 'out', '--device', 'cpu')
    assert not (tmp_path / 'out').exists()


def test_images_of_other_bands_and_types_are_displayed():
    image = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    assert displayable(image) is image
    assert (displayable(image[..., 0]) == image[..., :1]).all()
    rgb = np.concatenate([image[..., ::-1], image[..., :1]], axis=2)
    assert (displayable(rgb) == image).all()
    wide = np.linspace(500, 9000, 4 * 6 * 8).reshape(6, 8, 4).astype(np.uint16)
    for bands in (wide, wide[..., :2], wide[..., 0], wide.astype(np.float32)):
        shown = displayable(bands)
        assert (shown.shape, shown.dtype) == ((6, 8, 3), np.uint8)
        assert shown.min() == 0 and shown.max() == 255
    assert displayable(np.zeros((2, 2), np.uint16)).max() == 0


def test_images_are_loaded_as_the_test_pipeline_does(demo, images, tmp_path):
    """Here as floating-point gray: one channel, which the model expects."""
    text = SEGMENTOR.replace("'LoadImageFromFile'", "'LoadImageFromFile', color_type='grayscale', to_float32=True")
    text = text.replace('mean=[127.0] * 3, std=[60.0] * 3', 'mean=[127.0], std=[60.0]')
    text += "model['backbone'] = dict(backbone, in_channels=1)\n"
    config, checkpoint = save_model(tmp_path, 'mmseg', text)
    demo(images / '0.png', config, checkpoint, '--out-dir', tmp_path / 'out', '--device', 'cpu')
    assert cv2.imread(str(tmp_path / 'out/pictures/0.png')).shape == (64, 64, 3)


def test_a_test_pipeline_without_the_loading_transform_is_rejected(demo, images, tmp_path):
    text = SEGMENTOR.replace("dict(type='LoadImageFromFile'), ", '')
    config, checkpoint = save_model(tmp_path, 'mmseg', text)
    with pytest.raises(SystemExit, match='has no LoadImageFromFile, with which the demos load images'):
        demo(images / '0.png', config, checkpoint, '--out-dir', tmp_path / 'out', '--device', 'cpu')
