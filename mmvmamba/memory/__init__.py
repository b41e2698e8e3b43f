"""Recomputation in the backward pass and chunked inference on a CPU. Models use only the functions exported here.

Normally, a linear layer saves its input for the backward pass, and a scan the map that it scans. Often this input is
the output of a norm, a gate, an activation or a depthwise convolution whose own inputs are saved in any case. Computing
it again in the backward pass then saves memory and takes little time. Such an input is passed as a `Deferred`; `linear`
and `project_and_scan` compute it and save only the maps that it depends on. Norms return ordinary tensors that record
how they were computed (`compute_recomputable`), so a block is written as ``x + drop_path(mixer(norm(x)))``.

Source: the idea is that of Mamba (arXiv 2312.00752), section 3.3.2, and Vim (arXiv 2401.09417), section 3.5.
"""

from .causal_conv import as_maps, causal_conv_silu
from .cpu_fast_path import is_on_cpu_fast_path, use_cpu_fast_path
from .deferred import Deferred, as_tensor, compute_recomputable, defer
from .eligibility import can_use_raw_weights, has_default_forward
from .linear_layers import apply_gate, linear, linear_gelu, split_linear
from .scan import project_and_scan, scan_dtype

__all__ = [
    'Deferred',
    'as_maps',
    'as_tensor',
    'can_use_raw_weights',
    'causal_conv_silu',
    'compute_recomputable',
    'defer',
    'apply_gate',
    'has_default_forward',
    'is_on_cpu_fast_path',
    'linear',
    'linear_gelu',
    'project_and_scan',
    'scan_dtype',
    'split_linear',
    'use_cpu_fast_path',
]
