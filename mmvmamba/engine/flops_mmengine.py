"""Formulas for MMEngine's FLOP counter, and with it for the `get_flops.py` of mmdet, mmseg and mmpretrain."""

from mmengine.analysis import complexity_analysis
from mmengine.analysis.jit_handles import get_shape

from ..ops.conv.flops import conv_flops
from ..ops.scan.flops import scan_flops


def _count_scan(inputs: list, outputs: list) -> int:
    x, dt, A, _, _, D, _, dt_weight = map(get_shape, inputs[:8])
    return scan_flops(x, dt, A, D is not None, dt_weight is not None)


def _count_conv(inputs: list, outputs: list) -> int:
    return conv_flops(get_shape(inputs[0]), get_shape(inputs[1]))


# every FlopAnalyzer starts from these
complexity_analysis._DEFAULT_SUPPORTED_FLOP_OPS.update(
    {'mmvmamba::selective_scan_2d': _count_scan, 'mmvmamba::conv_silu': _count_conv}
)
