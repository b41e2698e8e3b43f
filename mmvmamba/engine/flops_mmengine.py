"""Formulas for MMEngine's FLOP counter, and with it for the `get_flops.py` of mmdet, mmseg and mmpretrain."""

from mmengine.analysis import complexity_analysis
from mmengine.analysis.jit_handles import get_shape

from ..ops.conv.flops import conv_flops
from ..ops.scan.flops import scan_flops


def _count_scan(inputs: list, outputs: list) -> int:
    x, dt, A = (get_shape(value) or [] for value in inputs[:3])
    D, dt_weight = get_shape(inputs[5]), get_shape(inputs[7])
    return scan_flops(x, dt, A, D is not None, dt_weight is not None)


def _count_conv(inputs: list, outputs: list) -> int:
    x, weight = (get_shape(value) or [] for value in inputs[:2])
    return conv_flops(x, weight)


# every FlopAnalyzer starts from these
complexity_analysis._DEFAULT_SUPPORTED_FLOP_OPS.update(
    {'mmvmamba::selective_scan_2d': _count_scan, 'mmvmamba::conv_silu': _count_conv}
)
