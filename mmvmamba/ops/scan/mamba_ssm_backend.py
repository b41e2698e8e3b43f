"""The scan on mamba-ssm's CUDA kernel, if that is installed, for comparisons.

The kernel scans sequences. Each traversal of a map is therefore copied to a sequence, and the results are added.
"""

import torch
from torch import Tensor

from ..import_failure import import_failure, in_one_line
from .scan_inputs import ScanInputs
from .traversal import is_reversed, one_map_per_traversal, to_map, to_sequence


def unavailable_reason() -> str | None:
    error = import_failure('selective_scan_cuda', 'mamba_ssm.ops.selective_scan_interface')
    if isinstance(error, ModuleNotFoundError):
        return (
            f'mamba-ssm with its CUDA kernel is not installed ({error}); since 2.3.2 it is only built with '
            'MAMBA_KEEP_CUDA_BUILD=TRUE.'
        )
    return error and f'mamba-ssm is installed, but cannot be imported ({in_one_line(error)}).'


def selective_scan_2d(inputs: ScanInputs, out_dtype: torch.dtype | None = None) -> Tensor:
    """Computes y (b, H, W, d), by default in the dtype of x. The result is differentiable."""
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    x, dt, A, B, C, D, dt_bias, dt_weight, codes, dt_softplus = inputs
    height, width = x.shape[-3:-1]
    if dt_weight is not None:
        dt = torch.einsum('bkhwr,kdr->bkhwd', dt, dt_weight.to(dt.dtype))

    def sequences(maps: Tensor) -> Tensor:
        """(b, K, H, W, c) -> (b, K, c, L), each in the order of its traversal."""
        ordered = (to_sequence(maps[:, k], code).transpose(1, 2) for k, code in enumerate(codes))
        return torch.stack([s.flip(-1) if is_reversed(code) else s for s, code in zip(ordered, codes)], 1)

    u = sequences(one_map_per_traversal(x, codes))
    y = selective_scan_fn(
        u.flatten(1, 2),
        sequences(dt).flatten(1, 2).to(u.dtype),
        A.flatten(0, 1).float(),
        sequences(B).to(u.dtype),
        sequences(C).to(u.dtype),
        None if D is None else D.flatten().float(),
        None,
        None if dt_bias is None else dt_bias.flatten().float(),
        dt_softplus,
    )
    merged = y.new_zeros(())
    for code, s in zip(codes, y.unflatten(1, u.shape[1:3]).unbind(1)):
        merged = merged + to_map((s.flip(-1) if is_reversed(code) else s).transpose(1, 2), code, height, width)
    return merged.to(out_dtype or x.dtype)
