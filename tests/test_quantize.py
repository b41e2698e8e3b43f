"""Tests tools/deployment/quantize.py: which layers it quantises, the difference of the results, and its errors."""

import importlib.util
from pathlib import Path

import pytest
import torch

from mmvmamba.export import custom_op_library, export_program

from .test_export import small_model

onnx = pytest.importorskip('onnx')
onnxruntime = pytest.importorskip('onnxruntime')
pytest.importorskip('onnxscript')
pytestmark = pytest.mark.slow

TOOL = Path(__file__).parents[1] / 'tools/deployment/quantize.py'


@pytest.fixture(scope='module')
def tool():
    spec = importlib.util.spec_from_file_location('quantize', TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def export(name, path, custom_op=True):
    from mmvmamba.export.onnx_model import to_onnx

    to_onnx(export_program(small_model(name)), custom_op=custom_op).save(path)
    return str(path)


def run(file, images):
    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(custom_op_library())
    session = onnxruntime.InferenceSession(file, options, ['CPUExecutionProvider'])
    return [torch.from_numpy(y) for y in session.run(None, {'images': images.numpy()})]


@pytest.mark.parametrize(('name', 'layers', 'projections'), [('vmamba', 8, 2), ('vim', 3, 1)])
def test_linear_layers_except_the_projections_to_dt_B_and_C_are_quantised(name, layers, projections, tool, tmp_path):
    file, out = export(name, tmp_path / 'model.onnx'), str(tmp_path / 'int8.onnx')
    tool.main([file, out, '--shape', '64', '64', '--repeats', '1'])
    nodes = onnx.load(out).graph.node
    weights = {tensor.name: tensor for tensor in onnx.load(out).graph.initializer}
    assert sum(node.op_type == 'MatMulInteger' for node in nodes) == layers
    assert [node.name for node in nodes if node.op_type == 'MatMul'] == tool.projections(onnx.load(file).graph)
    assert len(tool.projections(onnx.load(file).graph)) == projections
    scans = [node for node in nodes if node.op_type == 'SelectiveScan2D']
    parameters = [weights[name] for scan in scans for name in scan.input if name in weights]
    assert parameters and {parameter.data_type for parameter in parameters} == {onnx.TensorProto.FLOAT}
    images = torch.randn(1, 3, 64, 96)
    for found, expected in zip(run(out, images), run(file, images), strict=True):
        difference = (found - expected).norm() / expected.norm()
        assert 0 < difference < 0.03


def test_unsuitable_files_are_rejected_with_one_sentence(tool, tmp_path):
    file, out = export('vmamba', tmp_path / 'model.onnx'), str(tmp_path / 'int8.onnx')
    standard = export('vmamba', tmp_path / 'standard.onnx', custom_op=False)
    checkpoint = tmp_path / 'checkpoint.pth'
    torch.save({}, checkpoint)
    tool.main([file, out, '--shape', '32', '32', '--repeats', '1'])
    for unsuitable, message in {
        out: 'is already quantised',
        standard: 'has no operators of mmvmamba: export it with --custom-op',
        str(checkpoint): 'is not an ONNX file: quantise a file of export.py, not a checkpoint',
        str(tmp_path / 'absent.onnx'): 'does not exist',
    }.items():
        with pytest.raises(SystemExit, match=message):
            tool.main([unsuitable, str(tmp_path / 'never.onnx')])
    assert not (tmp_path / 'never.onnx').exists()
