"""Tests that exported detectors find the objects that mmdet finds, with the thresholds of their configs."""

import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from .test_export import tool

pytest.importorskip('mmdet')
onnxruntime = pytest.importorskip('onnxruntime')
pytest.importorskip('onnxscript')

from mmvmamba.export import custom_op_library  # noqa: E402
from mmvmamba.export.detection import Reference, difference  # noqa: E402
from mmvmamba.export.detection.padding import pad_image  # noqa: E402
from mmvmamba.export.detection.suppression import suppress  # noqa: E402

NAMES = ('a', 'b', 'c')
ROOT = Path(__file__).parents[1]
CLASSES = 3
DENSE = dict(num_classes=CLASSES, in_channels=8, feat_channels=8, stacked_convs=1)
ANCHORS = dict(type='AnchorGenerator', ratios=[1.0], octave_base_scale=8, scales_per_octave=1, strides=[8, 16])
NORM = dict(type='GN', num_groups=4)
POINTS = dict(
    share_conv=True,
    pred_kernel_size=1,
    norm_cfg=dict(type='BN'),
    anchor_generator=dict(type='MlvlPointGenerator', offset=0, strides=[8, 16]),
    bbox_coder=dict(type='DistancePointBBoxCoder'),
    loss_cls=dict(type='QualityFocalLoss', use_sigmoid=True, beta=2.0),
)
DENSE_HEADS = dict(
    RetinaNet=dict(
        type='RetinaHead',
        anchor_generator=dict(
            type='AnchorGenerator', octave_base_scale=4, scales_per_octave=2, ratios=[0.5, 1.0], strides=[8, 16]
        ),
    ),
    FCOS=dict(type='FCOSHead', strides=[8, 16], regress_ranges=((-1, 64), (64, 1e8)), norm_on_bbox=True, norm_cfg=None),
    ATSS=dict(
        type='ATSSHead',
        norm_cfg=NORM,
        anchor_generator=ANCHORS,
        loss_centerness=dict(type='CrossEntropyLoss', use_sigmoid=True),
    ),
    GFL=dict(
        type='GFLHead',
        norm_cfg=NORM,
        anchor_generator=ANCHORS,
        reg_max=8,
        loss_cls=dict(type='QualityFocalLoss', use_sigmoid=True),
        loss_dfl=dict(type='DistributionFocalLoss'),
    ),
    RTMDet=dict(type='RTMDetSepBNHead', exp_on_reg=True, with_objectness=False, **POINTS),
    RTMDetIns=dict(type='RTMDetInsSepBNHead', loss_mask=dict(type='DiceLoss', eps=5e-6, reduction='mean'), **POINTS),
)
NMS = dict(type='nms', iou_threshold=0.2)
PREPROCESSOR = dict(
    type='DetDataPreprocessor',
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    bgr_to_rgb=True,
    pad_size_divisor=32,
)
BACKBONE = dict(type='VMamba', arch=dict(dims=8, depths=(1, 0, 1, 0), ssm_ratio=1.0), out_indices=(1, 2))
NECK = dict(type='FPN', in_channels=[16, 32], out_channels=8, num_outs=2)


def roi_extractor(size):
    return dict(
        type='SingleRoIExtractor',
        roi_layer=dict(type='RoIAlign', output_size=size, sampling_ratio=0),
        out_channels=8,
        featmap_strides=[8, 16],
    )


def box_head(stds, **arguments):
    return dict(
        type='Shared2FCBBoxHead',
        in_channels=8,
        fc_out_channels=32,
        roi_feat_size=7,
        num_classes=CLASSES,
        bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_stds=stds),
        **arguments,
    )


def two_stage(kind):
    heads = [box_head([0.1, 0.1, 0.2, 0.2]), box_head([0.05, 0.05, 0.1, 0.1], reg_class_agnostic=True)]
    if kind == 'MaskRCNN':
        stages = dict(type='StandardRoIHead', bbox_head=heads[0])
    else:
        stages = dict(type='CascadeRoIHead', num_stages=2, stage_loss_weights=[1, 1], bbox_head=heads)
    mask_head = dict(type='FCNMaskHead', num_convs=1, in_channels=8, conv_out_channels=8, num_classes=CLASSES)
    return dict(
        type=kind,
        train_cfg=None,
        rpn_head=dict(
            type='RPNHead',
            in_channels=8,
            feat_channels=8,
            anchor_generator=dict(type='AnchorGenerator', scales=[4], ratios=[0.5, 1.0], strides=[8, 16]),
        ),
        roi_head=dict(
            **stages,
            bbox_roi_extractor=roi_extractor(7),
            mask_roi_extractor=roi_extractor(14),
            mask_head=mask_head,
        ),
        test_cfg=dict(
            rpn=dict(nms_pre=200, max_per_img=50, nms=dict(type='nms', iou_threshold=0.7), min_bbox_size=0),
            rcnn=dict(score_thr=0.0, nms=NMS, max_per_img=10, mask_thr_binary=0.5),
        ),
    )


def detector(name):
    if name in ('MaskRCNN', 'CascadeRCNN'):
        model = two_stage(name)
    else:
        test_cfg = dict(nms_pre=200, min_bbox_size=0, score_thr=0.0, nms=NMS, max_per_img=10, mask_thr_binary=0.5)
        kind = 'RTMDet' if name == 'RTMDetIns' else name
        model = dict(type=kind, bbox_head=dict(**DENSE, **DENSE_HEADS[name]), test_cfg=test_cfg)
    return dict(**model, data_preprocessor=PREPROCESSOR, backbone=BACKBONE, neck=NECK)


def write_config(folder, model, **resize):
    resize = resize or dict(scale=(190, 150), keep_ratio=True)
    pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='Resize', **resize),
        dict(type='PackDetInputs', meta_keys=('ori_shape', 'img_shape', 'scale_factor')),
    ]
    if model['type'] == 'RTMDet':
        pipeline.insert(2, dict(type='Pad', size=(192, 192), pad_val=dict(img=(114, 115, 116))))
    settings = dict(
        custom_imports=dict(imports=['mmvmamba'], allow_failed_imports=False),
        default_scope='mmdet',
        model=model,
        test_dataloader=dict(dataset=dict(type='CocoDataset', pipeline=pipeline, metainfo=dict(classes=NAMES))),
    )
    path = folder / 'detector.py'
    path.write_text('\n'.join(f'{key} = {value!r}' for key, value in settings.items()))
    return path


def randomise(model, reference, photograph):
    """Gives each layer after the backbone random weights, and outputs with a standard deviation of one.

    With the initial weights, all scores are equal. With much larger ones, they are all 0 or 1.
    """
    hooks = {}

    def scale(layer, inputs, output):
        if hook := hooks.pop(layer, None):  # at the first call, of those for all levels
            hook.remove()
            layer.weight.data /= output.std()
            return output / output.std()

    for part in (model.neck, *(getattr(model, head, None) for head in ('rpn_head', 'roi_head', 'bbox_head'))):
        for name, layer in part.named_modules() if part else ():
            if isinstance(layer, (nn.Conv2d, nn.Linear, nn.ConvTranspose2d)):
                nn.init.normal_(layer.weight)
                if layer.bias is not None:
                    nn.init.constant_(layer.bias, 2.0 if 'rtm_reg' in name else 0.0)  # large boxes, which overlap
                hooks[layer] = layer.register_forward_hook(scale)
    reference.predict(photograph)


def photograph():
    return np.ascontiguousarray(pytest.importorskip('skimage.data').coffee()[30:180, 40:250])


def best_score(model, reference, image):
    """The score that is compared with the threshold: FCOS and ATSS multiply it by the centerness afterwards."""
    if hasattr(model, 'roi_head'):
        return reference.predict(image)[1].max().item()
    maps = []
    hook = model.bbox_head.register_forward_hook(lambda head, inputs, outputs: maps.extend(outputs[0]))
    reference.predict(image)
    hook.remove()
    return max(scores.max() for scores in maps).sigmoid().item()


class Case:
    """A detector with random weights. Its threshold excludes all predictions in one of the images, but not in all."""

    def __init__(self, name, folder, images):
        self.export = tool()
        config, self.checkpoint = str(write_config(folder, detector(name))), str(folder / 'detector.pth')
        cfg = self.export.load_config(config)
        torch.manual_seed(1)
        model = self.export.build_model(cfg, None)
        reference = Reference(model, cfg)
        randomise(model, reference, photograph())
        torch.save(dict(state_dict=model.state_dict(), meta=dict(dataset_meta=dict(classes=NAMES))), self.checkpoint)
        best = sorted(best_score(model, reference, image) for image in images)
        prefix = 'model.test_cfg.rcnn' if hasattr(model, 'roi_head') else 'model.test_cfg'
        self.options = {f'{prefix}.score_thr': (best[0] + best[1]) / 2}
        self.arguments = [config, self.checkpoint]
        self.cfg = self.export.load_config(config, self.options)
        self.model = self.export.build_model(self.cfg, self.checkpoint)
        self.reference = Reference(self.model, self.cfg)

    def module(self):
        return self.export.whole_detector(self.cfg, self.model).eval()

    def write(self, out, *options):
        given = [f'{key}={value}' for key, value in self.options.items()]
        self.export.main([*self.arguments, str(out), '--repeats', '1', *options, '--cfg-options', *given])


@pytest.fixture(scope='module')
def images():
    """Twenty crops of four photographs, BGR, in twenty sizes."""
    data = pytest.importorskip('skimage.data')
    photos = [data.astronaut(), data.chelsea(), data.coffee(), np.stack([data.coins()] * 3, 2)]
    crops = [photos[i % 4][7 * i : 7 * i + 65 + 5 * i, 9 * i : 9 * i + 160 - 3 * i] for i in range(20)]
    return [np.ascontiguousarray(crop[:, :, ::-1]) for crop in crops]


def is_equal(result):
    return (
        result['objects'] == result['found_objects']
        and result.get('boxes', 0) < 0.01
        and result.get('scores', 0) < 1e-5
        and result.get('labels', 0) == 0
        and result.get('masks', 0) < 0.001
    )


@pytest.mark.parametrize('name', [*DENSE_HEADS, 'MaskRCNN', 'CascadeRCNN'])
def test_whole_detector_finds_the_objects_of_mmdet(name, tmp_path, images):
    case = Case(name, tmp_path, images)
    module, counts = case.module(), []
    for image in images:
        expected = case.reference.predict(image)
        with torch.no_grad():
            assert is_equal(difference(expected, module(*case.reference.inputs(image))))
        counts.append(len(expected[0]))
    settings = getattr(case.model, 'roi_head', getattr(case.model, 'bbox_head', None)).test_cfg
    settings.update(max_per_img=1000)
    kept = sum(len(case.reference.predict(image)[0]) for image in images)
    settings.nms = dict(type='nms', iou_threshold=1.0)
    assert kept < sum(len(case.reference.predict(image)[0]) for image in images), 'the NMS suppresses nothing'
    assert min(counts) == 0 and max(counts) > 1


FILES = {
    'RetinaNet': [],
    'FCOS': ['--custom-op'],
    'ATSS': ['--opset', '17'],
    'GFL': [],
    'RTMDet': ['--opset', '24'],
    'RTMDetIns': [],
    'MaskRCNN': ['--custom-op'],
    'CascadeRCNN': [],
}


@pytest.mark.slow
@pytest.mark.parametrize('name', FILES)
def test_file_finds_the_objects_of_mmdet_in_images_of_any_size(name, tmp_path, images):
    case = Case(name, tmp_path, images)
    case.write(tmp_path / 'detector.onnx', *FILES[name])
    session = open_session(tmp_path / 'detector.onnx')
    assert [value.name for value in session.get_inputs()] == ['images', 'size']
    counts = []
    for image in images:
        inputs = dict(zip(('images', 'size'), map(torch.Tensor.numpy, case.reference.inputs(image))))
        found = list(map(torch.from_numpy, session.run(None, inputs)))
        assert is_equal(difference(case.reference.predict(image), found))
        counts.append(len(found[0]))
    assert min(counts) == 0 and max(counts) > 1
    names = ['boxes', 'scores', 'labels', 'masks'][: len(found)]
    assert [value.name for value in session.get_outputs()] == names
    found = next(image for image in images if len(case.reference.predict(image)[0]))
    check_demo(tmp_path, found, case, FILES[name])


def open_session(path):
    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(custom_op_library())
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, ['CPUExecutionProvider'])


# Runs a script in which only onnxruntime, OpenCV, numpy and the standard library can be imported.
RUN_ALONE = """
import builtins, runpy, sys
original = builtins.__import__
def check(name, *rest, **given):
    if name.split('.')[0] in ('torch', 'torchvision', 'mmengine', 'mmcv', 'mmdet', 'mmvmamba'):
        raise ImportError(f'imports {name}')
    return original(name, *rest, **given)
builtins.__import__ = check
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name='__main__')
"""


def check_demo(folder, image, case, options):
    """Runs demo/onnx_demo.py without any OpenMMLab library, and compares its number of objects."""
    cv2 = pytest.importorskip('cv2')
    cv2.imwrite(str(folder / 'image.png'), image)
    arguments = [ROOT / 'demo/onnx_demo.py', folder / 'detector.onnx', folder / 'image.png', folder / 'picture.png']
    library = ['--library', custom_op_library()] if '--custom-op' in options else []
    done = subprocess.run(
        [sys.executable, '-c', RUN_ALONE, *arguments, *library, '--score-thr', '0'], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f'{len(case.reference.predict(image)[0])} objects')
    picture = cv2.imread(str(folder / 'picture.png'))
    assert picture.shape == image.shape and (picture != image).any()


@pytest.mark.slow
def test_program_finds_the_objects_of_mmdet_in_images_of_any_size(tmp_path, images):
    case = Case('FCOS', tmp_path, images)
    case.write(tmp_path / 'detector.pt2')
    program = torch.export.load(tmp_path / 'detector.pt2').module(check_guards=False)
    for image in images:
        with torch.no_grad():
            found = program(*case.reference.inputs(image))
        assert is_equal(difference(case.reference.predict(image), found))


@pytest.mark.slow
def test_unrolled_file_of_one_size_contains_only_standard_operators(tmp_path, images, capsys):
    case = Case('MaskRCNN', tmp_path, images)
    case.write(tmp_path / 'detector.onnx', '--unrolled', '--shape', '64', '96')
    nodes = pytest.importorskip('onnx').load(tmp_path / 'detector.onnx').graph.node
    assert {node.domain for node in nodes} == {''} and 'Scan' not in {node.op_type for node in nodes}
    session = open_session(tmp_path / 'detector.onnx')
    assert session.get_inputs()[0].shape == [1, 3, 64, 96]
    assert re.search(r'64 x 96 +(no objects|\d+ objects, boxes within)', capsys.readouterr().out)


@pytest.mark.parametrize('setting', [dict(), dict(class_agnostic=True), dict(split_thr=10)])
def test_suppression_keeps_the_boxes_of_mmcv(setting):
    batched_nms = pytest.importorskip('mmcv.ops').batched_nms
    torch.manual_seed(0)
    for count in (20, 300):
        corner, scores, groups = torch.rand(count, 2) * 1000, torch.rand(count), torch.randint(3, (count,))
        boxes = torch.cat([corner, corner + torch.rand(count, 2) * 300], 1)
        valid = scores > 0.2
        nms = dict(type='nms', iou_threshold=0.4, **setting)
        expected = valid.nonzero()[:, 0][batched_nms(boxes[valid], scores[valid], groups[valid], nms)[1]]
        assert suppress(boxes, scores, groups, valid, nms, 0)[:-1].tolist() == expected.tolist()
        assert suppress(boxes, scores, groups, valid, nms, 3)[:-1].tolist() == expected[:3].tolist()


def test_suppression_accepts_no_valid_box():
    boxes, nothing = torch.rand(4, 4), torch.zeros(4, dtype=torch.bool)
    assert len(suppress(boxes, torch.rand(4), torch.zeros(4).long(), nothing, NMS, 10)) == 1  # the one to ignore


@pytest.mark.parametrize(
    'padding',
    [dict(size=(50, 70)), dict(size=(20, 70)), dict(size_divisor=32), dict(pad_to_square=True, size_divisor=16)],
)
def test_padding_is_that_of_mmdet(padding):
    transform = pytest.importorskip('mmdet.datasets.transforms').Pad(**padding, pad_val=dict(img=(7, 8, 9)))
    image = np.random.default_rng(0).integers(256, size=(33, 41, 3), dtype=np.uint8)
    expected = torch.from_numpy(transform(dict(img=image))['img']).permute(2, 0, 1)
    images = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    assert torch.equal(pad_image(images, **padding, value=(7, 8, 9))[0], expected.float())


@pytest.mark.parametrize(
    'resize',
    [
        dict(scale=(133, 80), keep_ratio=True),
        dict(scale=(133, 80)),
        dict(scale_factor=1.37, keep_ratio=True),
        dict(scale_factor=(0.5, 1.3)),
    ],
)
def test_demo_resizes_images_as_mmdet(resize):
    namespace = runpy.run_path(str(ROOT / 'demo/onnx_demo.py'))
    transform = pytest.importorskip('mmdet.datasets.transforms').Resize(**resize)
    for height, width in ((48, 64), (64, 48), (427, 640), (33, 99), (80, 133)):
        image = np.zeros((height, width, 3), np.uint8)
        given = json.loads(json.dumps(resize))
        assert namespace['resized_shape'](height, width, **given) == transform(dict(img=image))['img'].shape[:2]


@pytest.mark.parametrize(
    'change, message',
    [
        (dict(test_cfg=dict(nms=dict(type='soft_nms', iou_threshold=0.5))), "nms={'type': 'soft_nms'"),
        (dict(test_cfg=dict(nms=NMS, mask_thr_binary=-1)), 'mask_thr_binary=-1 of the test_cfg'),
        (dict(bbox_head=dict(type='PAAHead', **DENSE, norm_cfg=NORM, anchor_generator=ANCHORS)), 'PAAHead'),
    ],
)
def test_unsupported_detector_is_rejected_with_the_names_of_the_supported_ones(change, message, tmp_path):
    config = write_config(tmp_path, {**detector('RetinaNet'), 'type': 'SingleStageDetector', **change})
    with pytest.raises(SystemExit, match=re.escape(message)) as error:
        tool().main([str(config), 'none', str(tmp_path / 'detector.onnx')])
    assert 'RTMDet-Ins' in str(error.value) and '--maps' in str(error.value)
    assert not (tmp_path / 'detector.onnx').exists()
