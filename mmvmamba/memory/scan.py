"""The selective scan of a mixer, with its projections to dt, B and C.

Training saves the projections and what a deferred input is computed from, and recomputes the input.
"""

from functools import partial

import torch
from torch import Tensor
from torch.autograd import Function

from ..ops.backend import current_backend
from ..ops.scan.backends import SCAN
from ..ops.scan.scan_2d import selective_scan_2d
from ..ops.scan.scan_inputs import ScanInputs
from ..ops.scan.traversal import traversal_codes
from .cpu_fast_path import fast_linear, fast_linear_per_map, is_on_cpu_fast_path
from .deferred import Deferred, autograd_is_recording, defer
from .recompute import capture_context, detached_leaves, gradients, gradients_with_graph


def project_and_scan(
    x: Tensor | Deferred,
    x_proj_weight: Tensor,
    A: Tensor,
    D: Tensor,
    dt_bias: Tensor,
    dt_weight: Tensor,
    traversals: tuple[str, ...],
) -> Tensor:
    """The selective scan of x, with dt, B and C projected from x.

    The backward pass recomputes a deferred x, but neither the projections nor the scan.

    Args:
        x: (b, H, W, d) or (b, K, H, W, d); training saves x, or the maps of a deferred x.
        x_proj_weight: (K, r + 2n, d), the projection of x to the low-rank dt, B and C.
        A, D, dt_bias, dt_weight, traversals: as in `selective_scan_2d`.

    Returns:
        (b, H, W, d) in `scan_dtype(x)`.
    """
    source = x if isinstance(x, Deferred) else defer(_same, x)
    tensors = (x_proj_weight, A, D, dt_bias, dt_weight, *source.maps, *source.parameters)
    backend = current_backend()
    # A backend that replaces the operator consists of PyTorch operations: autograd records them one by one.
    if not autograd_is_recording() or SCAN.runs_without_operator(backend):
        return _project_and_scan(source.fn, traversals, *tensors)
    return _ProjectAndScan.apply(source.fn, traversals, backend, *tensors)


def scan_dtype(x: Tensor) -> torch.dtype:
    """The output dtype of a scan: that of x, but float32 for float16, because the sum over traversals may overflow."""
    return torch.float32 if x.dtype == torch.float16 else x.dtype


class _ProjectAndScan(Function):
    """`_project_and_scan` as one function of autograd, which saves the projections and the inputs of `fn`, not x."""

    @staticmethod
    def forward(ctx, fn, traversals, backend, x_proj_weight, A, D, dt_bias, dt_weight, *inputs):
        x = fn(*inputs)
        projected = _project(x, x_proj_weight)
        ctx.fn, ctx.traversals, ctx.backend, ctx.forward_context = (
            fn,
            traversals,
            backend,
            capture_context(x),
        )
        ctx.save_for_backward(projected, x_proj_weight, A, D, dt_bias, dt_weight, *inputs)
        return _scan(x, projected, A, D, dt_bias, dt_weight, traversals)

    @staticmethod
    def backward(ctx, grad_y):
        projected, *saved = ctx.saved_tensors
        needs_grad = ctx.needs_input_grad[3:]
        if torch.is_grad_enabled():  # double backward
            compute = partial(_project_and_scan, ctx.fn, ctx.traversals)
            return None, None, None, *gradients_with_graph(compute, saved, needs_grad, grad_y, ctx.forward_context)

        x_proj_weight, A, D, dt_bias, dt_weight, *inputs = saved
        leaves = detached_leaves(inputs, needs_grad[5:])
        with torch.enable_grad(), ctx.forward_context():
            recomputed = ctx.fn(*leaves)
        x = recomputed.detach()
        dt, B, C = _split(projected, A)
        inputs = ScanInputs(x, dt, A, B, C, D, dt_bias, dt_weight, traversal_codes(ctx.traversals), dt_softplus=True)
        grad_x, grad_dt, grad_A, grad_B, grad_C, grad_D, grad_dt_bias, grad_dt_weight = (
            torch.ops.mmvmamba.selective_scan_2d_backward(grad_y, *inputs, ctx.backend)
        )
        grad_projected = torch.cat([grad_dt, grad_B, grad_C], -1)
        grad_x_of_projection, grad_weight = _project_backward(grad_projected, x, x_proj_weight)
        grad_inputs = gradients(recomputed, leaves, grad_x.add_(grad_x_of_projection))
        return None, None, None, grad_weight, grad_A, grad_D, grad_dt_bias, grad_dt_weight, *grad_inputs


def _project_and_scan(fn, traversals, x_proj_weight, A, D, dt_bias, dt_weight, *inputs) -> Tensor:
    x = fn(*inputs)
    return _scan(x, _project(x, x_proj_weight), A, D, dt_bias, dt_weight, traversals)


def _scan(x: Tensor, projected: Tensor, A, D, dt_bias, dt_weight, traversals) -> Tensor:
    if is_on_cpu_fast_path(projected):
        # the native scan reads dt, B and C in float32; converting each of the strided parts would take longer
        projected = projected.to(torch.promote_types(projected.dtype, torch.float32))
    dt, B, C = _split(projected, A)
    return selective_scan_2d(x, dt, A, B, C, D, dt_bias, dt_weight, traversals=traversals, out_dtype=scan_dtype(x))


def _split(projected: Tensor, A: Tensor) -> tuple[Tensor, ...]:
    """(b, K, H, W, r + 2n) -> dt, B and C."""
    d_state = A.shape[-1]
    return projected.split((projected.shape[-1] - 2 * d_state, d_state, d_state), -1)


def _project(x: Tensor, weight: Tensor) -> Tensor:
    """(b, H, W, d) or (b, K, H, W, d), with weights (K, c, d) -> (b, K, H, W, c)."""
    if x.dim() == 4:  # one product for all traversals
        return fast_linear(x, weight.flatten(0, 1)).unflatten(-1, weight.shape[:2]).permute(0, 3, 1, 2, 4)
    return fast_linear_per_map(x.flatten(2, 3), weight).unflatten(2, x.shape[2:4])


def _project_backward(grad: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of x and the weight, computed in the dtype that autocast chose for the projection."""
    weight_cast, x_cast = weight.to(grad.dtype), x.to(grad.dtype)
    if x.dim() == 4:
        grad = grad.permute(0, 2, 3, 1, 4).flatten(3)  # (b, H, W, K * c)
        grad_x = fast_linear(grad, weight_cast.flatten(0, 1).mT)
        grad_weight = (grad.flatten(0, 2).mT @ x_cast.flatten(0, 2)).view_as(weight)
    else:
        grad = grad.flatten(2, 3)
        grad_x = fast_linear_per_map(grad, weight_cast.mT).view_as(x)
        grad_weight = (grad.mT @ x_cast.flatten(2, 3)).sum(0)
    return grad_x.to(x.dtype), grad_weight.to(weight.dtype)


def _same(x: Tensor) -> Tensor:
    return x
