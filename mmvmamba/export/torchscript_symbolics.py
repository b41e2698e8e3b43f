"""Translations of the operators for PyTorch's exporter based on TorchScript, `torch.onnx.export(dynamo=False)`.

Tools such as mmdeploy use this exporter. The nodes are those of `onnx_operators`.
"""

from typing import Any

import torch
from torch.onnx import register_custom_op_symbolic, symbolic_helper

from ..ops.conv import conv_silu  # noqa: F401  (defines the operator)
from ..ops.scan import scan_2d  # noqa: F401  (defines the operator)
from .onnx_operators import DOMAIN, VERSION


def register_symbolics() -> None:
    """Makes `torch.onnx.export(dynamo=False)` write the operators for onnxruntime, in this process."""
    register_custom_op_symbolic('mmvmamba::selective_scan_2d', _selective_scan_2d, 1)
    register_custom_op_symbolic('mmvmamba::conv_silu', _conv_silu, 1)
    # This exporter has no translation of the following operators.
    register_custom_op_symbolic('aten::rms_norm', _rms_norm, 1)
    register_custom_op_symbolic('aten::mT', _transpose_last, 1)


@symbolic_helper.parse_args('v', 'v', 'v', 'v', 'v', 'v', 'v', 'v', 'is', 'b', 'none', 's')
def _selective_scan_2d(g: Any, x, dt, A, B, C, D, dt_bias, dt_weight, codes, dt_softplus, out_dtype, backend):
    optional = [_optional(g, value) for value in (D, dt_bias, dt_weight)]
    projected = g.op('Concat', dt, B, C, axis_i=-1)
    attributes = dict(codes_i=codes, softplus_i=int(dt_softplus), version_i=VERSION)
    return g.op(f'{DOMAIN}::SelectiveScan2D', x, projected, A, *optional, **attributes)


@symbolic_helper.parse_args('v', 'v', 'v', 'is', 's')
def _conv_silu(g: Any, x, weight, bias, left, backend):
    y = g.op(f'{DOMAIN}::ConvSiLU', x, weight, _optional(g, bias), left_i=left, version_i=VERSION)
    return symbolic_helper._unsqueeze_helper(g, y, [1]) if len(left) == 1 else y


@symbolic_helper.parse_args('v', 'is', 'v', 'f')
def _rms_norm(g: Any, x, shape, weight, epsilon):
    if len(shape) != 1 or symbolic_helper._is_none(weight):
        raise ValueError('Only an RMS norm of the last dimension with a weight can be exported.')
    return g.op(f'{DOMAIN}::AddNorm', x, weight, epsilon_f=epsilon, rms_i=1, version_i=VERSION)


def _transpose_last(g: Any, x):
    rank = symbolic_helper._get_tensor_rank(x)
    assert rank is not None
    return g.op('Transpose', x, perm_i=[*range(rank - 2), rank - 1, rank - 2])


def _optional(g: Any, value: Any) -> Any:
    """A missing input has no name in the file."""
    if not symbolic_helper._is_none(value):
        return value
    missing = g.op('prim::Constant')
    missing.setType(torch.OptionalType.ofTensor())
    return missing
