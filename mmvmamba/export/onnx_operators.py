"""The scan and the convolution in ONNX as single nodes of the domain `mmvmamba`.

onnxruntime runs such a file with the library of `custom_op_library`. Its C sources in `native` document the operators.
"""

# onnxscript's types are not those of the translated functions.
# pyright: reportArgumentType=false, reportCallIssue=false, reportReturnType=false

from collections.abc import Sequence

import torch
from onnx.defs import OpSchema
from onnxscript import FLOAT
from onnxscript import opset18 as op
from onnxscript.values import Op, Opset

from ..ops.conv import conv_silu  # noqa: F401  (defines the operator)
from ..ops.scan import scan_2d  # noqa: F401  (defines the operator)

# Version of the inputs, attributes and results of the operators: OPERATORS_VERSION in native/ort_operator.h.
VERSION = 2

DOMAIN = 'mmvmamba'
_OPSET = Opset(DOMAIN, 1)


def _operator(name: str, inputs: Sequence[str], optional: Sequence[str], **attributes: OpSchema.AttrType) -> Op:
    def parameter(name: str, option: OpSchema.FormalParameterOption) -> OpSchema.FormalParameter:
        return OpSchema.FormalParameter(name, 'tensor(float)', param_option=option)

    schema = OpSchema(
        name,
        DOMAIN,
        _OPSET.version,
        inputs=[parameter(input, OpSchema.FormalParameterOption.Single) for input in inputs]
        + [parameter(input, OpSchema.FormalParameterOption.Optional) for input in optional],
        outputs=[parameter('y', OpSchema.FormalParameterOption.Single)],
        attributes=[OpSchema.Attribute(attribute, type_) for attribute, type_ in attributes.items()],
    )
    return Op(_OPSET, name, schema)


_INT, _INTS, _FLOAT = OpSchema.AttrType.INT, OpSchema.AttrType.INTS, OpSchema.AttrType.FLOAT
SELECTIVE_SCAN_2D = _operator(
    'SelectiveScan2D',
    ('x', 'projected', 'A'),
    ('D', 'dt_bias', 'dt_weight'),
    codes=_INTS,
    softplus=_INT,
    version=_INT,
)
CONV_SILU = _operator('ConvSiLU', ('x', 'weight'), ('bias',), left=_INTS, version=_INT)


def _selective_scan_2d(
    x: FLOAT,
    dt: FLOAT,
    A: FLOAT,
    B: FLOAT,
    C: FLOAT,
    D: FLOAT | None,
    dt_bias: FLOAT | None,
    dt_weight: FLOAT | None,
    codes: Sequence[int],
    dt_softplus: bool,
    out_dtype: int | None,
    backend: str = 'auto',
) -> FLOAT[...]:
    _check_float32('scan', x)
    projected = op.Concat(dt, B, C, axis=-1)  # operator_fusion removes it if they are parts of one map
    inputs = (x, projected, A, D, dt_bias, dt_weight)
    return SELECTIVE_SCAN_2D(*inputs, codes=list(codes), softplus=int(dt_softplus), version=VERSION)


def _conv_silu(x: FLOAT, weight: FLOAT, bias: FLOAT | None, left: Sequence[int], backend: str = 'auto') -> FLOAT[...]:
    _check_float32('convolution', x)
    y = CONV_SILU(x, weight, bias, left=list(left), version=VERSION)
    return op.Unsqueeze(y, op.Constant(value_ints=[1])) if len(left) == 1 else y


def _check_float32(operation: str, x: FLOAT) -> None:
    if x.dtype.name != 'FLOAT':
        raise ValueError(f'x is {x.dtype.name}: export the {operation} in float32.')


TRANSLATIONS = {
    torch.ops.mmvmamba.selective_scan_2d.default: _selective_scan_2d,
    torch.ops.mmvmamba.conv_silu.default: _conv_silu,
}
