"""Tests tools/deployment/serving: preprocessing, predictions, drawings and the service, with files of export.py."""

import base64
import importlib.util
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import MODELS, DefaultScope

from mmvmamba.engine.libraries import register_modules
from mmvmamba.export.file_description import describe

onnx = pytest.importorskip('onnx')
pytest.importorskip('onnxruntime')
pytest.importorskip('onnxscript')
pytest.importorskip('mmpretrain')
pytest.importorskip('mmseg')

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
SERVING = ROOT / 'tools/deployment/serving'

CLASSIFIER = """
custom_imports = dict(imports=['mmvmamba'], allow_failed_imports=False)
default_scope = 'mmpretrain'
data_preprocessor = dict(num_classes=7, mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)
model = dict(
    type='ImageClassifier',
    backbone=dict(type='VMamba', arch=dict(dims=8, depths=(1, 0, 0, 1), ssm_ratio=1.0), out_indices=(3,)),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=7, in_channels=64))
test_dataloader = dict(dataset=dict(
    type='CustomDataset', metainfo=dict(classes=list('abcdefg')), pipeline=[
        dict(type='LoadImageFromFile'),
        dict(type='ResizeEdge', scale=72, edge='short', backend='pillow', interpolation='bicubic'),
        dict(type='CenterCrop', crop_size=64),
        dict(type='PackInputs')]))
"""
SEGMENTOR = """
custom_imports = dict(imports=['mmvmamba'], allow_failed_imports=False)
default_scope = 'mmseg'
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor', mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True,
        size=(64, 64), test_cfg=dict(size_divisor=32)),
    backbone=dict(type='VMamba', arch=dict(dims=8, depths=(1, 0, 0, 1), ssm_ratio=1.0), out_indices=(0, 3)),
    decode_head=dict(
        type='FCNHead', in_channels=64, in_index=1, channels=16, num_convs=1, num_classes=5,
        norm_cfg=dict(type='BN'), align_corners=False),
    test_cfg=dict(mode='whole'))
test_dataloader = dict(dataset=dict(
    type='BaseSegDataset', metainfo=dict(classes=list('vwxyz'), palette=[[9 * i, 50, 200] for i in range(5)]),
    pipeline=[
        dict(type='LoadImageFromFile'),
        dict(type='Resize', scale=(160, 80), keep_ratio=True),
        dict(type='LoadAnnotations'),
        dict(type='PackSegInputs')]))
"""
SIZES = (90, 120), (120, 90), (61, 200), (300, 31)


def load(name):
    """Imports a file of the folder, whose files import each other by their names."""
    if str(SERVING) not in sys.path:
        sys.path.insert(0, str(SERVING))
    return importlib.import_module(name)


def photograph(height, width, seed=0):
    """Noise with large structures, (height, width, 3), uint8."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (5, 5, 3), np.uint8)
    noise = random.integers(-20, 21, (height, width, 3))
    return (cv2.resize(coarse, (width, height)).astype(int) + noise).clip(0, 255).astype(np.uint8)


def png(image):
    return cv2.imencode('.png', image)[1].tobytes()


def predictor(file, **options):
    return load('predictor').Predictor(str(file), threads=1, **options)


def test_pipeline(cfg):
    dataset = cfg.test_dataloader.dataset
    while 'dataset' in dataset:
        dataset = dataset.dataset
    return dataset.pipeline


test_pipeline.__test__ = False


def prepared_by_the_library(cfg, file):
    """The input of the model, (3, H, W), normalised."""
    register_modules(cfg.default_scope)
    settings = dict(cfg.model.get('data_preprocessor') or cfg.data_preprocessor)
    settings.setdefault('type', 'ClsDataPreprocessor')
    settings.pop('num_classes', None)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        steps = [step for step in test_pipeline(cfg) if step['type'] != 'LoadAnnotations']
        data = Compose(steps)(dict(img_path=str(file), img_id=0))
        preprocessor = MODELS.build(settings)
        done = preprocessor(dict(inputs=[data['inputs']], data_samples=[data['data_samples']]))
    return np.asarray(done['inputs'][0])


def distinct_configs():
    """One config of each kind of preprocessing."""
    found = {}
    for path in sorted(ROOT.glob('configs/v*/*.py')):
        cfg = Config.fromfile(path)
        if cfg.get('test_dataloader') and cfg.default_scope != 'mmdet':
            cfg.model.pop('head', None)
            found.setdefault(describe(cfg, 'task', {}), pytest.param(cfg, id=path.stem))
    return found.values()


@pytest.mark.parametrize('cfg', distinct_configs())
def test_preprocessing_is_that_of_the_config(cfg, tmp_path):
    preprocessing = load('preprocessing')
    about = json.loads(describe(cfg, 'task', {}))
    settings = cfg.model.get('data_preprocessor') or cfg.data_preprocessor
    for height, width in (*SIZES, (700, 1100)):
        image = photograph(height, width)
        (tmp_path / 'image.png').write_bytes(png(image))
        x = preprocessing.resize(image, about['steps'], 10**8)[..., ::-1].astype(np.float32)
        x = preprocessing.pad(x, about['pad'])
        x = (x - np.float32(settings['mean'])) / np.float32(settings['std'])
        expected = prepared_by_the_library(cfg.copy(), tmp_path / 'image.png')
        assert x.shape[:2] == expected.shape[1:]
        np.testing.assert_allclose(x.transpose(2, 0, 1), expected, rtol=0, atol=1e-6)


def test_transforms_that_the_service_lacks_are_named():
    cfg = Config.fromfile(ROOT / 'configs/your_data/four_bands.py')
    about = json.loads(describe(cfg, 'segmentation', {}))
    assert about['steps'] is None and about['unsupported'] == 'LoadImageFromFile'


@pytest.fixture(scope='module')
def export():
    spec = importlib.util.spec_from_file_location('export', ROOT / 'tools/deployment/export.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope='module')
def models(export, tmp_path_factory):
    """The config, the model and the ONNX file of a classifier and a segmentor."""
    folder = tmp_path_factory.mktemp('models')
    found = {}
    for name, config in dict(classifier=CLASSIFIER, segmentor=SEGMENTOR).items():
        path = folder / f'{name}.py'
        path.write_text(config)
        torch.manual_seed(0)
        cfg = export.load_config(path)
        model = export.build_model(cfg, None)
        layer = model.head.fc if name == 'classifier' else model.decode_head.conv_seg
        layer.weight.data.normal_()  # with the default initialisation, all scores are about equal
        torch.save(dict(state_dict=model.state_dict(), meta={}), folder / f'{name}.pth')
        export.main([str(path), str(folder / f'{name}.pth'), str(folder / f'{name}.onnx'), '--repeats', '1'])
        found[name] = cfg, model, folder / f'{name}.onnx'
    return found


def test_scores_of_a_classifier_are_those_of_the_model(models, tmp_path):
    cfg, model, file = models['classifier']
    service = predictor(file)
    for seed, (height, width) in enumerate(SIZES):
        image = photograph(height, width, seed)
        (tmp_path / 'image.png').write_bytes(png(image))
        x = torch.from_numpy(prepared_by_the_library(cfg.copy(), tmp_path / 'image.png'))
        with torch.no_grad():
            [expected] = model.head(model.extract_feat(x[None])).softmax(1)
        found = service.predict(service.read(png(image)))
        np.testing.assert_allclose(found['scores'], expected, rtol=1e-4, atol=1e-6)
        classes = service.summary(found, 0)['classes']
        assert [each['label'] for each in classes] == expected.argsort(descending=True)[:5].tolist()
        assert all(each['class'] == 'abcdefg'[each['label']] for each in classes)


def test_classes_of_a_segmentor_are_those_of_the_model(models, tmp_path):
    """Except next to the borders of classes: mmseg resizes scores to the size of the image, the service classes."""
    cfg, model, file = models['segmentor']
    service = predictor(file)
    for seed, (height, width) in enumerate(SIZES):
        image = photograph(height, width, seed)
        (tmp_path / 'image.png').write_bytes(png(image))
        x = torch.from_numpy(prepared_by_the_library(cfg.copy(), tmp_path / 'image.png'))[None]
        resized = load('preprocessing').resize(image, service.about['steps'], 10**8).shape[:2]
        with torch.no_grad():
            logits = model.decode_head(model.extract_feat(x))
        logits = torch.nn.functional.interpolate(logits, x.shape[2:], mode='bilinear')
        expected = logits.argmax(1)[0, : resized[0], : resized[1]].numpy().astype(np.uint8)
        found = service.predict(image)
        assert found['classes'].shape == (height, width)
        expected = cv2.resize(expected, (width, height), interpolation=cv2.INTER_NEAREST)
        assert (found['classes'] == expected).mean() > 0.999
        summary = service.summary(found, 0)
        assert summary['classes'] == [
            {'label': label, 'class': 'vwxyz'[label], 'share': round(float((found['classes'] == label).mean()), 6)}
            for label in np.unique(found['classes']).tolist()
        ]
        decoded = cv2.imdecode(np.frombuffer(base64.b64decode(summary['label_map']), np.uint8), cv2.IMREAD_UNCHANGED)
        assert (decoded == found['classes']).all()
        drawn = service.draw(image, found, 0)
        colour = np.array(service.about['palette'], int)[found['classes']][..., ::-1]
        assert np.abs(drawn - (image / 2 + colour / 2)).max() <= 0.5


def detector(path):
    """Writes a file with the inputs and outputs of a detector: two boxes of the size of the image, or half of it."""
    h, o = onnx.helper, onnx.TensorProto
    box = np.array([[0, 0, 1, 1], [0, 0, 0.5, 0.5]], np.float32)
    nodes = [
        h.make_node('Cast', ['size'], ['float'], to=o.FLOAT),
        h.make_node('Gather', ['float', 'order'], ['edges']),
        h.make_node('Mul', ['box', 'edges'], ['boxes']),
        h.make_node('Identity', ['two'], ['scores']),
        h.make_node('Identity', ['one'], ['labels']),
        h.make_node('Concat', ['count', 'size'], ['shape'], axis=0),
        h.make_node('ConstantOfShape', ['shape'], ['masks'], value=h.make_tensor('true', o.BOOL, [1], [True])),
    ]
    constants = dict(
        order=np.array([1, 0, 1, 0]), box=box, two=np.float32([0.9, 0.2]), one=np.array([0, 1]), count=np.array([2])
    )
    outputs = dict(boxes=(o.FLOAT, [2, 4]), scores=(o.FLOAT, [2]), labels=(o.INT64, [2]), masks=(o.BOOL, [2, 'h', 'w']))
    graph = h.make_graph(
        nodes,
        'detector',
        [
            h.make_tensor_value_info('images', o.FLOAT, [1, 3, 'h', 'w']),
            h.make_tensor_value_info('size', o.INT64, [2]),
        ],
        [h.make_tensor_value_info(name, *kind) for name, kind in outputs.items()],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = h.make_model(graph, opset_imports=[h.make_opsetid('', 20)], ir_version=9)
    about = dict(task='detection', classes=['coin', 'key'], palette=None, multi_label=False, pad=None)
    about |= dict(steps=[dict(type='Resize', scale=[64, 32], keep_ratio=True)], unsupported=None)
    onnx.helper.set_model_props(model, dict(mmvmamba=json.dumps(about)))
    path.write_bytes(model.SerializeToString())
    return path


def test_objects_of_a_detector(tmp_path):
    service = predictor(detector(tmp_path / 'detector.onnx'))
    image = photograph(40, 60)
    found = service.predict(image)
    [first] = service.summary(found, 0.3)['objects']
    mask = cv2.imdecode(np.frombuffer(base64.b64decode(first.pop('mask')), np.uint8), cv2.IMREAD_UNCHANGED)
    assert mask.shape == (40, 60) and (mask == 255).all()
    assert first == {'label': 0, 'class': 'coin', 'score': 0.9, 'box': [0, 0, 60, 40]}
    assert [each['class'] for each in service.summary(found, 0)['objects']] == ['coin', 'key']
    assert (service.draw(image, found, 0.95) == image).all()
    assert (service.draw(image, found, 0.3) != image).any(2).mean() > 0.9


@pytest.mark.parametrize(
    'changes, message',
    [
        (None, 'does not describe its preprocessing: export it again'),
        (dict(task='feature maps'), 'returns feature maps: only classification, segmentation, detection can be served'),
        (dict(steps=None, unsupported='Normalize'), 'Normalize of its test pipeline is not supported'),
    ],
)
def test_files_that_cannot_be_served_are_rejected(tmp_path, changes, message):
    model = onnx.load(detector(tmp_path / 'model.onnx'))
    about = json.loads(model.metadata_props[0].value)
    del model.metadata_props[:]
    if changes:
        onnx.helper.set_model_props(model, dict(mmvmamba=json.dumps(about | changes)))
    onnx.save(model, tmp_path / 'model.onnx')
    with pytest.raises(ValueError, match=message):
        predictor(tmp_path / 'model.onnx')


def test_a_file_that_onnxruntime_cannot_open_is_rejected(tmp_path):
    (tmp_path / 'model.onnx').write_bytes(b'no model')
    with pytest.raises(ValueError, match=r'^onnxruntime cannot open \S+model.onnx \('):
        predictor(tmp_path / 'model.onnx')


@pytest.fixture
def client(models):
    pytest.importorskip('fastapi', reason='fastapi is missing: pip install fastapi uvicorn python-multipart')
    from fastapi.testclient import TestClient

    app = load('serve').create_app(predictor(models['classifier'][2], max_pixels=100_000), max_bytes=400_000)
    return TestClient(app)


def post(client, data, path='/predict', **options):
    return client.post(path, files=dict(image=('image.png', data)), **options)


def test_service_returns_json_and_a_picture(client, models):
    image = photograph(90, 120)
    answer = post(client, png(image)).json()
    service = predictor(models['classifier'][2])
    expected = service.predict(image)
    assert answer == dict(task='classification', width=120, height=90, **service.summary(expected, 0.3))
    picture = post(client, png(image), '/picture')
    assert picture.headers['content-type'] == 'image/jpeg'
    assert cv2.imdecode(np.frombuffer(picture.content, np.uint8), cv2.IMREAD_COLOR).shape == (90, 120, 3)
    assert client.get('/health').json() == dict(status='ok', task='classification')


def bomb():
    """A PNG file of less than 400 kB with 20,000 x 16,000 pixels."""
    from PIL import Image

    file = BytesIO()
    Image.new('1', (20000, 16000)).save(file, 'PNG')
    return file.getvalue()


def test_bad_requests_are_rejected_with_one_sentence(client):
    image = png(photograph(90, 120))
    needs_image = "Send an image file as the form field 'image' (multipart/form-data)."
    assert len(bomb()) < 400_000
    cases = [
        (post(client, b'text'), 415, 'The file is not an image in one of the formats BMP, JPEG, PNG, TIFF, WEBP.'),
        (post(client, b''), 415, 'The file is not an image in one of the formats BMP, JPEG, PNG, TIFF, WEBP.'),
        (post(client, image[:60]), 400, 'The image file is damaged.'),
        (post(client, bomb()), 413, 'The image has 20000 x 16000 pixels; the limit is 100000 pixels.'),
        (post(client, bytes(500_000)), 413, 'The request has more than 400000 bytes.'),
        (
            post(client, png(photograph(2, 20_000))),
            413,
            'Resized as for the model, the image has 720000 x 72 pixels; the limit is 100000 pixels.',
        ),
        (client.post('/predict', content=iter([image])), 411, 'The request needs the header Content-Length.'),
        (client.post('/predict'), 422, needs_image),
        (client.post('/predict', content=image), 422, needs_image),
        (client.post('/predict', data=dict(image='text')), 422, needs_image),
        (client.post('/predict', files=dict(photo=image)), 422, needs_image),
        (post(client, image, params=dict(min_score=2)), 422, 'min_score must be a number from 0 to 1.'),
        (client.get('/predict'), 405, 'Method Not Allowed'),
        (client.get('/other'), 404, 'Not Found'),
    ]
    assert [(answer.status_code, answer.json()) for answer, *_ in cases] == [
        (status, dict(detail=message)) for _, status, message in cases
    ]


def test_damaged_files_never_raise(client):
    """Every part of a file is cut off or changed: the answer is a prediction or a rejection."""
    files = [cv2.imencode(suffix, photograph(30, 40))[1] for suffix in ('.png', '.jpg', '.bmp', '.webp', '.tiff')]
    random = np.random.default_rng(0)
    statuses = set()
    for file in files:
        for _ in range(25):
            changed = file.copy()
            changed[random.integers(0, len(file), 3)] = random.integers(0, 256, 3)
            for data in (changed, file[: random.integers(0, len(file))]):
                answer = post(client, data.tobytes())
                statuses.add(answer.status_code)
                assert answer.status_code == 200 or isinstance(answer.json()['detail'], str)
    assert {200, 415} <= statuses <= {200, 400, 413, 415, 422}


@pytest.mark.parametrize('name', ['classifier', 'segmentor'])
def test_four_parallel_clients_get_the_results_of_one(models, name):
    pytest.importorskip('fastapi')
    from fastapi.testclient import TestClient

    client = TestClient(load('serve').create_app(predictor(models[name][2]), parallel=2))
    files = [png(photograph(*SIZES[seed % 4], seed)) for seed in range(8)]
    expected = [post(client, data).json() for data in files]
    assert len({json.dumps(each) for each in expected}) == len(files)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda data: post(client, data).json(), files * 8))
    assert found == expected * 8


@pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')
def test_service_runs_without_pytorch_in_constant_memory(models, tmp_path):
    """`benchmarks/serving.py` starts the service, and fails if a result is wrong or the memory grows."""
    pytest.importorskip('fastapi')
    command = [sys.executable, 'benchmarks/serving.py', str(models['classifier'][2]), '--requests', '150']
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, 'PYTHONPATH': str(ROOT)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert 'wrong results: 0' in done.stdout and 'PyTorch loaded: no' in done.stdout


@pytest.mark.parametrize(
    'arguments, message',
    [
        (['none.onnx'], 'onnxruntime cannot open none.onnx'),
        (['model.onnx', '--threads', '0'], 'argument --threads: 0 is not a positive integer'),
    ],
)
def test_wrong_arguments_end_with_one_sentence(arguments, message):
    pytest.importorskip('fastapi')
    done = subprocess.run([sys.executable, SERVING / 'serve.py', *arguments], capture_output=True, text=True)
    assert done.returncode and message in done.stderr.splitlines()[-1]
