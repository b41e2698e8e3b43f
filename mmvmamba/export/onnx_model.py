"""Conversion of an exported program to an ONNX model."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from ..ops.conv import torch_conv
from ..ops.import_failure import in_one_line

try:
    import onnx_ir
    import onnxscript
except ModuleNotFoundError as error:
    message = "ONNX needs onnxscript and onnx: run `pip install 'mmvmamba[export]'`."
    raise ImportError(message, name=error.name) from error
except Exception as error:
    raise ImportError(f'ONNX needs onnxscript, which cannot be imported ({in_one_line(error)}).') from error

from . import onnx_operators, onnx_scan
from .operator_fusion import fuse_operators
from .opset_17 import to_opset_17

OPSETS = range(17, 25)


def to_onnx(program: ExportedProgram, opset: int = 20, custom_op: bool = False) -> torch.onnx.ONNXProgram:
    """Converts the result of `export_program` to an ONNX model; call its `save` to write the file.

    The first input is named `images`, a second one `size`. The dynamic dimensions of the images are named `batch`,
    `height` and `width`. Subgraphs that depend only on weights are constant-folded.

    Args:
        program: the exported model.
        opset: version of the ONNX operators, one of `OPSETS`.
        custom_op: whether to write each scan, and each convolution with SiLU, as one node of the domain `mmvmamba`.
            Such a file runs only in onnxruntime, with the library of `custom_op_library`.

    Raises:
        ValueError: the opset is not supported.
    """
    if opset not in OPSETS:
        raise ValueError(f'opset={opset} is not supported: choose {OPSETS[0]} to {OPSETS[-1]}.')
    translations = onnx_operators.TRANSLATIONS if custom_op else onnx_scan.TRANSLATIONS
    decompositions = {operator: f for operator, f in _DECOMPOSITIONS.items() if operator not in translations}
    onnx = torch.onnx.export(
        program.run_decompositions(decompositions),
        input_names=['images', 'size'][: len(program.graph_signature.user_inputs)],
        opset_version=max(opset, 18),  # the oldest one that PyTorch writes
        custom_translation_table=translations,
        dynamo=True,
        verbose=False,
    )
    assert onnx is not None  # because `dynamo=True`
    shape = onnx.model.graph.inputs[0].shape
    assert shape is not None
    for axis, name in ((0, 'batch'), (2, 'height'), (3, 'width')):
        if not isinstance(shape[axis], int):
            shape[axis] = name
    onnxscript.optimizer.optimize(onnx.model, input_size_limit=2**30, output_size_limit=2**26)
    if custom_op:
        fuse_operators(onnx.model)
    _add_types_of_scan_bodies(onnx.model)
    if opset == 17:
        to_opset_17(onnx.model)
    return onnx


def _add_types_of_scan_bodies(model: onnx_ir.Model) -> None:
    """onnxruntime infers these types. OpenVINO does not: it would return an empty result without an error."""
    for node in model.graph.all_nodes():
        if node.op_type == 'Scan':
            body = node.attributes['body'].as_graph()
            for value in (*body.inputs, *body.outputs):
                value.type = onnx_ir.TensorType(onnx_ir.DataType.FLOAT)


def _adaptive_avg_pool2d(x: Tensor, output_size: list[int]) -> Tensor:
    """Adaptive average pooling for any input size. ONNX has only the global form; the others are matrix products."""
    if list(output_size) == [1, 1]:
        return x.mean((2, 3), keepdim=True)
    rows, columns = (_window_means(size, windows, x) for size, windows in zip(x.shape[2:], output_size))
    return rows @ x @ columns.mT


def _window_means(size: int, windows: int, like: Tensor) -> Tensor:
    """A pooling matrix (windows, size).

    Row i averages the positions from floor(i * size / windows) up to, but excluding, ceil((i + 1) * size / windows).
    """
    window = torch.arange(windows, device=like.device)[:, None]
    position = torch.arange(size, device=like.device)
    begin, end = window * size // windows, ((window + 1) * size + windows - 1) // windows
    return ((position >= begin) & (position < end)).to(like.dtype) / (end - begin)


def _conv_silu(x: Tensor, weight: Tensor, bias: Tensor | None, left: list[int], backend: str = 'auto') -> Tensor:
    return torch_conv.conv_silu(x, weight, bias, left)


def _split(x: Tensor, size: int, dim: int = 0) -> list[Tensor]:
    """Slices, because the optimizer of onnxscript does not fold a Split of a weight."""
    return [x.narrow(dim, start, min(size, x.shape[dim] - start)) for start in range(0, x.shape[dim], size)]


# Operators that are composed of other operators, because ONNX has no counterpart.
_DECOMPOSITIONS: dict[Any, Callable] = {
    torch.ops.aten.adaptive_avg_pool2d.default: _adaptive_avg_pool2d,
    torch.ops.aten.split.Tensor: _split,
    torch.ops.aten.meshgrid.default: lambda tensors: torch.meshgrid(*tensors, indexing='ij'),
    torch.ops.mmvmamba.conv_silu.default: _conv_silu,
}
