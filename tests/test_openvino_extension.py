"""Tests the operators for OpenVINO against the operators of PyTorch, which run the same kernels on OpenMP."""

import os
import random
import re
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from onnx import TensorProto

from mmvmamba.export import export_program, openvino_extension
from mmvmamba.export.onnx_model import to_onnx
from mmvmamba.models import Vim, VMamba
from mmvmamba.ops import native
from mmvmamba.ops.conv import native as native_conv
from mmvmamba.ops.scan import native as native_scan
from mmvmamba.ops.scan.scan_inputs import ScanInputs
from tests.test_ops import test_depthwise_conv, test_native
from tests.test_ort_operators import fuzz, single_node
from tests.test_ort_operators.rowwise import agrees, expected_norm
from tests.test_ort_operators.single_node import CONV, NORM, SCAN, WRONG_ATTRIBUTES, node_model, scan_tensors

openvino = pytest.importorskip('openvino', reason="needs OpenVINO: pip install 'mmvmamba[openvino]'")
pytestmark = [
    pytest.mark.skipif(not shutil.which('g++'), reason='needs g++'),
    pytest.mark.skipif(native.unavailable_reason() is not None, reason=str(native.unavailable_reason())),
]


@pytest.fixture(scope='module')
def core(tmp_path_factory):
    core = openvino.Core()
    core.add_extension(openvino_extension(tmp_path_factory.mktemp('cache')))
    return core


def compiled(core, model, threads=1, precision='f32'):
    return core.compile_model(model, 'CPU', dict(INFERENCE_PRECISION_HINT=precision, INFERENCE_NUM_THREADS=threads))


@pytest.fixture(params=['fixed', 'dynamic'])
def run(request, core):
    """Runs a model of one node, as `single_node.run` does in onnxruntime."""

    def run(model, operator, tensors, threads=1, library=None):
        feed = {i: t.contiguous().numpy() for i, t in zip(operator[1], tensors) if t is not None}
        model = core.read_model(model)
        model.reshape({i: a.shape if request.param == 'fixed' else [-1] * a.ndim for i, a in feed.items()})
        outputs = [torch.from_numpy(y.copy()) for y in compiled(core, model, threads)(feed).values()]
        return outputs if len(outputs) > 1 else outputs[0]

    return run


@pytest.fixture
def operators(run, monkeypatch):
    """The functions of `single_node`, in OpenVINO."""
    monkeypatch.setattr(single_node, 'run', run)
    return single_node


@pytest.mark.parametrize('name', test_native.CASES)
def test_scan_equals_the_pytorch_operator_for_any_number_of_threads(operators, name):
    inputs, codes, softplus = test_native.case(**test_native.CASES[name])
    expected = native_scan.selective_scan_2d(ScanInputs(*inputs, codes, softplus), torch.float32)
    for threads, side_by_side in ((1, False), (2, True), (4, False)):
        tensors = scan_tensors(*inputs, side_by_side=side_by_side)
        assert torch.equal(operators.scan(tensors, codes, softplus, threads=threads), expected)


@pytest.mark.parametrize('name', test_depthwise_conv.CASES)
def test_convolution_equals_the_pytorch_operator_for_any_number_of_threads(operators, name):
    _, *tensors, left = test_depthwise_conv.make(*test_depthwise_conv.CASES[name])
    for bias in (tensors[2], None):
        tensors[2] = bias
        expected = native_conv.conv_silu(*tensors, left)
        for threads in (1, 2, 4):
            assert torch.equal(operators.convolve(tensors, left, threads=threads), expected)


@pytest.mark.parametrize('rms', [False, True])
def test_norm_equals_the_one_of_pytorch(operators, rms):
    x, residual, *vectors = torch.randn(2, 3, 5, 37), torch.randn(2, 3, 5, 37), *torch.randn(3, 37)
    weight, shift, bias = vectors
    for tensors in ([x, weight, None, None, None], [x, weight, shift, residual, bias], [x, weight, None, None, bias]):
        with_sum = tensors[4] is not None
        y = operators.norm(tensors, rms, with_sum=with_sum)
        expected = expected_norm(*tensors, rms, with_sum=with_sum)
        for found, right in zip(*((y, expected) if with_sum else ([y], [expected]))):
            assert agrees(found, right)


def test_random_shapes_return_the_right_result_or_one_sentence(operators, monkeypatch):
    monkeypatch.setattr(fuzz, 'gelu_case', fuzz.norm_case)  # OpenVINO runs BiasGelu with its own operators
    draw = random.Random(0)
    outcomes = [fuzz.run_case(draw, threads=2) for _ in range(300)]
    assert 90 < outcomes.count('refused') < 210


def scan_model(**attributes):
    inputs, codes, _ = test_native.case(2, 5, 7, 18, 2, test_native.CROSS)
    return node_model(SCAN, scan_tensors(*inputs), **{'codes': codes, 'softplus': 1} | attributes)


@pytest.mark.parametrize(
    'attributes, message',
    [*WRONG_ATTRIBUTES, (dict(types=dict(x=TensorProto.DOUBLE)), 'x has the type f64, expected f32.')],
)
def test_wrong_attributes_and_types_are_rejected_when_the_file_is_read(core, attributes, message):
    with pytest.raises(RuntimeError, match=re.escape(f'mmvmamba::SelectiveScan2D: {message}')):
        core.read_model(scan_model(**attributes))


@pytest.mark.parametrize('operator', [single_node.CONV, single_node.GELU, NORM])
def test_other_operators_reject_another_version(core, operator):
    attributes = dict(left=[1]) if operator is CONV else dict(epsilon=1e-5, rms=0)
    model = node_model(operator, [torch.empty(1)] * len(operator[1]), version=1, **attributes)
    with pytest.raises(RuntimeError, match=f'mmvmamba::{operator[0]}: the file contains version 1 of this'):
        core.read_model(model)


def test_missing_inputs_are_rejected(core):
    for operator, attributes in ((SCAN, dict(codes=[0], softplus=1)), (CONV, dict(left=[0]))):
        model = node_model(operator, [torch.empty(1), None, *[torch.empty(1)] * (len(operator[1]) - 2)], **attributes)
        with pytest.raises(RuntimeError, match=f'mmvmamba::{operator[0]}: the input {operator[1][1]} is missing'):
            core.read_model(model)


def test_openvino_without_the_extension_names_the_operator():
    with pytest.raises(RuntimeError, match=r'mmvmamba\.SelectiveScan2D'):
        openvino.Core().read_model(scan_model())


@pytest.fixture(scope='module', params=['vmamba', 'vim'])
def backbone(request, tmp_path_factory):
    """A small backbone, and its file."""
    torch.manual_seed(0)
    if request.param == 'vmamba':
        model = VMamba(arch=dict(dims=8, depths=(1, 1, 0, 0), ssm_ratio=1.0), out_indices=(1,))
    else:
        model = Vim(arch=dict(embed_dims=16, depth=1))
    file = tmp_path_factory.mktemp('file') / 'model.onnx'
    to_onnx(export_program(model), custom_op=True).save(file)
    return model.eval(), file


@pytest.mark.parametrize('precision, tolerance', [('f32', 1e-5), ('bf16', 3e-2)])
@pytest.mark.parametrize('fixed', [False, True])
def test_exported_file_returns_the_maps_of_the_model(core, backbone, precision, tolerance, fixed):
    model, file = backbone
    for shape in ((1, 3, 64, 96), (2, 3, 80, 48)):
        images = torch.randn(shape)
        graph = core.read_model(file)
        if fixed:
            graph.reshape(shape)
        [y] = compiled(core, graph, precision=precision)([images.numpy()]).values()
        with torch.no_grad():
            [expected] = model(images)
        assert (torch.from_numpy(y) - expected).abs().max() < tolerance * expected.abs().max()


def test_model_in_the_format_of_openvino_returns_the_same_maps(core, backbone, tmp_path):
    graph = core.read_model(backbone[1])
    openvino.save_model(graph, tmp_path / 'model.xml', compress_to_fp16=False)
    images = torch.randn(1, 3, 64, 96).numpy()
    [expected], [found] = (compiled(core, g)([images]).values() for g in (graph, tmp_path / 'model.xml'))
    assert (found == expected).all()


def test_second_call_does_not_compile(tmp_path, monkeypatch):
    library = openvino_extension(tmp_path)
    monkeypatch.setitem(openvino_extension.__globals__, '_compile', None)
    assert openvino_extension(tmp_path) == library


def test_library_that_was_copied_next_to_the_kernels_does_not_need_mmvmamba(core, backbone, tmp_path):
    from mmvmamba.export import custom_op_library

    for library in (openvino_extension(tmp_path / 'cache'), custom_op_library()):
        shutil.copy(library, tmp_path)
    program = (
        'import sys, openvino; core = openvino.Core(); core.add_extension(sys.argv[1]); core.read_model(sys.argv[2]); '
        'print([line.split()[-1] for line in open("/proc/self/maps") if "onnxruntime_ops" in line][0])'
    )
    command = [sys.executable, '-c', program, tmp_path / 'openvino_ops.so', backbone[1]]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(tmp_path / 'onnxruntime_ops.so')


def test_missing_requirements_raise_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv('CXX', 'no-compiler')
    with pytest.raises(FileNotFoundError, match=r'need the C\+\+ compiler no-compiler: install g\+\+, or set CXX'):
        openvino_extension(tmp_path)
    compiler = tmp_path / 'broken'
    compiler.write_text('#!/bin/sh\necho "x.cpp:1: error: no such thing" >&2\nexit 1\n')
    compiler.chmod(0o755)
    monkeypatch.setenv('CXX', str(compiler))
    with pytest.raises(RuntimeError, match=r'broken could not compile .* \(x\.cpp:1: error: no such thing\)\.$'):
        openvino_extension(tmp_path)
    assert not list(tmp_path.rglob('openvino_ops.so'))
    monkeypatch.setitem(openvino_extension.__globals__, 'find_spec', lambda name: None)
    with pytest.raises(ImportError, match='need openvino: run `pip install openvino`'):
        openvino_extension(tmp_path)


def test_openvino_without_headers_is_rejected(tmp_path, monkeypatch):
    (tmp_path / 'openvino').mkdir()
    (tmp_path / 'openvino/__init__.py').touch()
    spec = SimpleNamespace(origin=os.fspath(tmp_path / 'openvino/__init__.py'))
    monkeypatch.setitem(openvino_extension.__globals__, 'find_spec', lambda name: spec)
    with pytest.raises(FileNotFoundError, match=r'contains no C\+\+ headers or no libopenvino\.so'):
        openvino_extension(tmp_path)
