"""Tests that exported models match the original models for images of any size."""

import importlib.util
import re
import runpy
import warnings
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import nn

from mmvmamba.export import custom_op_library, export_program
from mmvmamba.models import Vim, VMamba
from mmvmamba.models.vmamba import ARCHS
from mmvmamba.ops import CROSS, selective_scan_2d

onnxruntime = pytest.importorskip('onnxruntime')
pytest.importorskip('onnxscript')

MODELS = {
    'vmamba': (VMamba, dict(arch=dict(dims=8, depths=(1, 0, 0, 1), ssm_ratio=1.0), out_indices=(0, 3))),
    'vanilla': (
        VMamba,
        dict(
            arch=dict(
                dims=8, depths=(1, 1, 0, 0), d_state=16, mlp_ratio=0.0, gate=True, stem='patch', downsample='merging'
            ),
            out_indices=(1,),
        ),
    ),
    'vim': (Vim, dict(arch=dict(embed_dims=16, depth=1), pooling='middle', rope_grid=14)),
}


def small_model(name):
    torch.manual_seed(0)
    family, arguments = MODELS[name]
    return family(**arguments).eval()


def session(onnx, threads=1, custom_op=False):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    if custom_op:
        options.register_custom_ops_library(custom_op_library())
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(onnx.model_proto.SerializeToString(), options, ['CPUExecutionProvider'])


@pytest.mark.slow
@pytest.mark.parametrize('name', MODELS)
def test_export_supports_any_size_and_batch(name):
    from mmvmamba.export.onnx_model import to_onnx

    model = small_model(name)
    program = export_program(model)
    onnx = session(to_onnx(program))
    assert onnx.get_inputs()[0].shape == ['batch', 3, 'height', 'width']
    for size in ((1, 3, 224, 224), (3, 3, 57, 101)):
        images = torch.randn(size)
        with torch.no_grad():
            expected = model(images)
        for out, y, eager in zip(onnx.run(None, {'images': images.numpy()}), program.module()(images), expected):
            torch.testing.assert_close(torch.from_numpy(out), eager, atol=2e-5, rtol=1e-5)
            torch.testing.assert_close(y, eager, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize('name', MODELS)
def test_export_with_custom_operators_supports_any_size_batch_and_number_of_threads(name):
    from mmvmamba.export.onnx_model import to_onnx

    model = small_model(name)
    onnx = to_onnx(export_program(model), custom_op=True)
    nodes = list(onnx.model.graph.all_nodes())
    scans = sum(module.__class__.__name__ in ('SS2D', 'BiMamba') for module in model.modules())
    count = Counter(node.op_type for node in nodes if node.domain in ('mmvmamba', ''))
    assert count['SelectiveScan2D'] == count['ConvSiLU'] == scans
    assert not count.keys() & {'Scan', 'Split', 'Gather', 'LayerNormalization', 'Pow'}
    if name == 'vmamba':  # the graph neither computes sizes nor copies a map before a scan
        operators = {'AddNorm', 'BiasGelu', 'ConvSiLU', 'SelectiveScan2D', 'MatMul', 'Conv', 'Gelu', 'Transpose'}
        assert count.keys() == operators and count['Transpose'] == 11
    sessions = [session(onnx, threads, custom_op=True) for threads in (1, 2, 4)]
    for size in ((1, 3, 224, 224), (3, 3, 57, 101)):
        images = torch.randn(size)
        with torch.no_grad():
            expected = model(images)
        first, *others = (opened.run(None, {'images': images.numpy()}) for opened in sessions)
        for out, eager in zip(first, expected, strict=True):
            torch.testing.assert_close(torch.from_numpy(out), eager, atol=2e-5, rtol=1e-5)
        assert all((a == b).all() for other in others for a, b in zip(first, other, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize('name', MODELS)
def test_exporter_based_on_torchscript_writes_the_operators(name, tmp_path):
    from mmvmamba.export.torchscript_symbolics import register_symbolics

    register_symbolics()
    model, file = small_model(name), str(tmp_path / 'model.onnx')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # this exporter is deprecated
        images = torch.randn(1, 3, 64, 96)
        torch.onnx.export(model, (images,), file, input_names=['images'], dynamo=False, opset_version=17)
    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(custom_op_library())
    outputs = onnxruntime.InferenceSession(file, options).run(None, {'images': images.numpy()})
    with torch.no_grad():
        for out, eager in zip(outputs, model(images), strict=True):
            torch.testing.assert_close(torch.from_numpy(out), eager, atol=2e-5, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize('name', ['vmamba', 'vim'])
def test_unrolled_export_contains_no_scan_operator(name):
    """The file uses standard operators only, for one image of one size."""
    from mmvmamba.export.onnx_model import to_onnx

    model = small_model(name)
    onnx = to_onnx(export_program(model, (32, 48), unrolled=True))
    nodes = list(onnx.model.graph.all_nodes())
    assert {node.domain for node in nodes} == {''} and 'Scan' not in {node.op_type for node in nodes}
    file = session(onnx)
    assert file.get_inputs()[0].shape == [1, 3, 32, 48]
    images = torch.randn(1, 3, 32, 48)
    with torch.no_grad():
        expected = model(images)
    for out, eager in zip(file.run(None, {'images': images.numpy()}), expected, strict=True):
        torch.testing.assert_close(torch.from_numpy(out), eager, atol=2e-5, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize('opset', [17, 18, 24])
@pytest.mark.parametrize('name', MODELS)
def test_file_of_every_opset_is_valid_and_equals_the_model(name, opset):
    from mmvmamba.export.onnx_model import to_onnx

    model = small_model(name)
    onnx = to_onnx(export_program(model), opset)
    assert onnx.model.opset_imports[''] == opset
    pytest.importorskip('onnx').checker.check_model(onnx.model_proto, full_check=True)
    images = torch.randn(1, 3, 57, 101)
    with torch.no_grad():
        expected = model(images)
    for out, eager in zip(session(onnx).run(None, {'images': images.numpy()}), expected, strict=True):
        torch.testing.assert_close(torch.from_numpy(out), eager, atol=2e-5, rtol=1e-5)


class Pooled(nn.Module):
    """A scan and the pooling of a classifier."""

    def __init__(self):
        super().__init__()
        self.scan, self.pool = Scan(CROSS, 1, 2, True), nn.AdaptiveAvgPool2d(1)

    def forward(self, images):
        return self.pool(self.scan(images).permute(0, 3, 1, 2))


def test_global_pooling_is_one_node_and_bodies_of_scans_have_types():
    from mmvmamba.export.onnx_model import to_onnx

    graph = to_onnx(export_program(Pooled())).model.graph
    assert [node.op_type for node in graph][-1] == 'ReduceMean' and 'Mod' not in {node.op_type for node in graph}
    bodies = [node.attributes['body'].as_graph() for node in graph if node.op_type == 'Scan']
    assert len(bodies) == 4 and all(value.type for body in bodies for value in (*body.inputs, *body.outputs))


def test_unsupported_opset_is_rejected():
    from mmvmamba.export.onnx_model import to_onnx

    with pytest.raises(ValueError, match='opset=16 is not supported: choose 17 to 24'):
        to_onnx(export_program(Pooled()), 16)


class Scan(nn.Module):
    """A scan as a model with one argument; all other inputs are computed from x."""

    def __init__(self, traversals, d_state, rank, each_its_own, dt_softplus=True):
        super().__init__()
        K, d = len(traversals), 3
        self.A = nn.Parameter(-torch.rand(K, d, d_state) - 0.1)
        self.D, self.dt_bias = (
            nn.Parameter(torch.randn(K, d)),
            nn.Parameter(torch.randn(K, d) if rank else torch.zeros(K, d)),
        )
        self.dt_weight = nn.Parameter(torch.randn(K, d, rank)) if rank else None
        self.project = nn.Linear(d, (rank or d) + 2 * d_state)
        self.traversals, self.each_its_own = traversals, each_its_own

    def forward(self, images):
        x = images.permute(0, 2, 3, 1)
        maps = torch.stack([x * (k + 1) for k in range(len(self.traversals))], 1)
        rank, n = self.project.out_features - 2 * self.A.shape[2], self.A.shape[2]
        dt, B, C = self.project(maps).split((rank, n, n), -1)
        x = maps if self.each_its_own else x
        return selective_scan_2d(x, dt, self.A, B, C, self.D, self.dt_bias, self.dt_weight, traversals=self.traversals)


@pytest.mark.parametrize(
    'arguments',
    [(CROSS, 1, 2, True), (CROSS, 4, None, False), (('column_reversed', 'row', 'row'), 1, 2, False)],
)
def test_every_form_of_the_scan_exports(arguments):
    from mmvmamba.export.onnx_model import to_onnx

    torch.manual_seed(0)
    scan = Scan(*arguments)
    onnx = session(to_onnx(export_program(scan)))
    images = torch.randn(2, 3, 5, 7)
    with torch.no_grad():
        expected = scan(images)
    [y] = onnx.run(None, {'images': images.numpy()})
    torch.testing.assert_close(torch.from_numpy(y), expected, atol=1e-5, rtol=1e-5)


UPERNET = """
custom_imports = dict(imports=['mmvmamba'], allow_failed_imports=False)
default_scope = 'mmseg'
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor', mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True),
    backbone=dict(type='VMamba', arch=dict(dims=8, depths=(1, 1, 1, 1), ssm_ratio=1.0)),
    decode_head=dict(
        type='UPerHead', in_channels=[8, 16, 32, 64], in_index=[0, 1, 2, 3], pool_scales=(1, 2, 3, 6), channels=16,
        num_classes=5, norm_cfg=dict(type='BN'), align_corners=False))
"""

DETECTOR = """
custom_imports = dict(imports=['mmvmamba'], allow_failed_imports=False)
default_scope = 'mmdet'
model = dict(
    type='RetinaNet',
    data_preprocessor=dict(type='DetDataPreprocessor', mean=[127.0] * 3, std=[60.0] * 3),
    backbone=dict(type='VMamba', arch=dict(dims=8, depths=(1, 0, 0, 0), ssm_ratio=1.0), out_indices=(0,)),
    neck=dict(type='FPN', in_channels=[8], out_channels=8, num_outs=2),
    bbox_head=dict(type='RetinaHead', num_classes=2, in_channels=8))
"""


def tool():
    path = Path(__file__).parent.parent / 'tools/deployment/export.py'
    spec = importlib.util.spec_from_file_location('export', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def photographs(tmp_path):
    """Twenty crops of four photographs, in twenty sizes."""
    data, io = pytest.importorskip('skimage.data'), pytest.importorskip('skimage.io')
    paths = []
    for i in range(20):
        photograph = getattr(data, ('astronaut', 'chelsea', 'coffee', 'rocket')[i % 4])()
        paths.append(tmp_path / f'{i}.png')
        io.imsave(paths[-1], photograph[7 * i : 7 * i + 65 + 5 * i, 9 * i : 9 * i + 160 - 3 * i], check_contrast=False)
    return paths


@pytest.mark.slow
def test_exported_segmentor_predicts_the_same_classes(photographs, tmp_path, capsys):
    pytest.importorskip('mmseg')
    export, config = tool(), tmp_path / 'upernet.py'
    config.write_text(UPERNET)
    torch.manual_seed(0)
    model = export.build_model(export.load_config(config), None)
    model.decode_head.conv_seg.weight.data.normal_()  # with the default initialisation, one class wins everywhere
    torch.save(model.state_dict(), tmp_path / 'upernet.pth')
    export.main(
        [*map(str, (config, tmp_path / 'upernet.pth', tmp_path / 'upernet.onnx')), '--repeats', '1', '--images']
        + list(map(str, photographs))
    )
    shares = re.findall(r'([\d.]+)% of the pixels equal, (\d+) classes', capsys.readouterr().out)
    assert len(shares) == 20
    assert min(float(share) for share, _ in shares) >= 99.9
    assert min(int(classes) for _, classes in shares) > 1


@pytest.mark.slow
def test_sliding_windows_of_the_demo_are_those_of_mmseg(tmp_path):
    pytest.importorskip('mmseg')
    export, config, crop, stride = tool(), tmp_path / 'upernet.py', (64, 80), (40, 48)
    config.write_text(f"{UPERNET.rstrip()[:-1]}, test_cfg=dict(mode='slide', crop_size={crop}, stride={stride}))")
    torch.manual_seed(0)
    model = export.build_model(export.load_config(config), None)
    model.decode_head.conv_seg.weight.data.normal_()
    torch.save(model.state_dict(), tmp_path / 'upernet.pth')
    arguments = [config, tmp_path / 'upernet.pth', tmp_path / 'upernet.onnx', '--logits', '--repeats', '1']
    export.main(list(map(str, arguments)))
    demo = runpy.run_path(str(Path(__file__).parents[1] / 'demo/onnx_sliding_windows.py'))
    file = onnxruntime.InferenceSession(str(tmp_path / 'upernet.onnx'), providers=['CPUExecutionProvider'])
    for height, width in ((64, 80), (65, 200), (150, 81), (40, 300)):  # smaller, equal to and larger than a window
        images = torch.rand(1, 3, height, width) * 255
        x = model.data_preprocessor(dict(inputs=[images[0].flip(0)]))['inputs']  # BGR, as loaded
        meta = dict(ori_shape=(height, width), img_shape=(height, width))
        with torch.no_grad():
            expected = model.inference(x, [meta])
        found = torch.from_numpy(demo['slide'](file, images.numpy(), crop, stride))
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-5)


@pytest.mark.slow
def test_node_count_of_vmamba_t_matches_the_docs():
    """The count does not depend on the width, and grows linearly with the depth: two depths are measured."""
    pytest.importorskip('mmpretrain')
    from mmvmamba.export.onnx_model import to_onnx

    onnxscript = importlib.import_module('onnxscript')
    if not (torch.__version__.startswith('2.11.') and onnxscript.__version__.startswith('0.7.')):
        pytest.skip('other versions than those of the page write other nodes')
    export, root = tool(), Path(__file__).parent.parent
    page = (root / 'docs/export.md').read_text()
    pattern = (
        r'The file has (\d+) nodes, and (\d+) in the bodies of its (\d+) scans.*?`--custom-op`, it has (\d+) nodes'
    )
    stated = re.search(pattern, page, re.S).groups()
    config = str(root / 'configs/vmamba/vmamba-t_8xb128_in1k.py')
    counts = []
    for depth in (1, 2):
        cfg = export.load_config(config)
        cfg.model.backbone.arch = dict(dims=8, depths=(1, 1, depth, 1), ssm_ratio=1.0)
        cfg.model.head.in_channels = 64
        program = export_program(export.Exported(cfg, export.build_model(cfg, None), 'logits'))
        graph, with_operators = (to_onnx(program, custom_op=custom_op).model.graph for custom_op in (False, True))
        scans = sum(node.op_type == 'Scan' for node in graph)
        counts.append((len(graph), sum(1 for _ in graph.all_nodes()) - len(graph), scans, len(with_operators)))
    more = sum(ARCHS['tiny']['depths']) - 4
    assert [one + more * (two - one) for one, two in zip(*counts)] == [int(count) for count in stated]


@pytest.mark.slow
def test_unrolled_detector_contains_no_custom_operators(tmp_path, capsys):
    pytest.importorskip('mmdet')
    export, config = tool(), tmp_path / 'detector.py'
    config.write_text(DETECTOR)
    out = tmp_path / 'detector.pt2'
    export.main([str(config), 'none', str(out), '--maps', '--shape', '32', '48', '--unrolled', '--repeats', '1'])
    program = torch.export.load(out)
    assert not [node for node in program.graph.nodes if 'mmvmamba' in str(node.target)]
    [difference] = re.findall(r'largest difference (\S+) of', capsys.readouterr().out)
    assert float(difference) < 1e-5
    assert [len(map_[0]) for map_ in program.module()(torch.zeros(1, 3, 32, 48))] == [8, 8]


@pytest.mark.parametrize(
    'arguments, message',
    [
        (['model.pth'], 'must end in .onnx or .pt2'),
        (['model.onnx', '--maps', '--backbone'], 'exclude each other'),
        (['model.onnx', '--unrolled'], '--unrolled needs the size of the image'),
        (['model.pt2', '--opset', '17'], '--opset is for .onnx files'),
        (['model.pt2', '--custom-op'], '--custom-op writes operators of onnxruntime'),
        (
            ['model.onnx', '--custom-op', '--unrolled', '--shape', '8', '8'],
            '--custom-op writes operators of onnxruntime',
        ),
    ],
)
def test_unsupported_exports_are_rejected(arguments, message):
    with pytest.raises(SystemExit, match=message):
        tool().main(['config.py', 'none', *arguments])


def test_quantised_model_is_rejected_by_name():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Linear(8, 8))
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # torch.ao is deprecated
        quantised = torch.ao.quantization.quantize_dynamic(model, {nn.Linear})
    with pytest.raises(
        ValueError, match=r'1 is quantised: export the float32 model, and quantise the file with tools/'
    ):
        export_program(quantised)
