"""SS2D, the token mixer of VMamba: a selective scan over a map in several traversals."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..memory import Deferred, apply_gate, can_use_raw_weights, defer, linear, project_and_scan
from ..ops import CROSS, conv_silu_2d
from .layers import LayerNorm, default_dt_rank, init_A_log_, init_dt_bias_
from .validation import check_layout, reject_torchscript


class SS2D(nn.Module):
    """2-D selective scan: in_proj -> depthwise 3x3 conv -> SiLU -> scan -> LayerNorm (-> gate) -> out_proj.

    The projections to dt, B and C act on each position separately, so they do not depend on the order of the positions.
    One matrix multiplication on the map, without reordering it, computes them for all traversals.
    Source: VMamba (arXiv 2401.10166), section 4.2 and Figure 3; parameter names are those of the released checkpoints.

    Args:
        channels: C, channels in and out.
        d_state: N, size of the state of one channel.
        ssm_ratio: the inner width is E = ssm_ratio * C.
        dt_rank: R, rank of the projection to the step size; 'auto' is ceil(C / 16).
        gate: multiply the output by the SiLU of a second branch of in_proj, as in the `vanilla_*` variants.
        conv_bias: bias of the depthwise convolution.
        traversals: the scan order of each of the K directions: 'row', 'column', 'row_reversed' or 'column_reversed'.
            The default, `CROSS`, contains each of them once.
    """

    __prepare_scriptable__ = reject_torchscript

    def __init__(
        self,
        channels: int,
        d_state: int = 1,
        ssm_ratio: float = 2.0,
        dt_rank: int | Literal['auto'] = 'auto',
        gate: bool = False,
        conv_bias: bool = False,
        traversals: tuple[str, ...] = CROSS,
    ):
        super().__init__()
        inner = int(ssm_ratio * channels)
        rank = default_dt_rank(channels) if dt_rank == 'auto' else dt_rank
        directions = len(traversals)
        self.channels = channels
        self.traversals = traversals
        self.has_gate = gate
        self.in_proj = nn.Linear(channels, 2 * inner if gate else inner, bias=False)
        self.conv2d = nn.Conv2d(inner, inner, 3, padding=1, groups=inner, bias=conv_bias)
        self.x_proj_weight = nn.Parameter(torch.empty(directions, rank + 2 * d_state, inner))
        self.dt_projs_weight = nn.Parameter(torch.empty(directions, inner, rank))
        self.dt_projs_bias = nn.Parameter(torch.empty(directions, inner))
        self.A_logs = nn.Parameter(torch.empty(directions * inner, d_state))
        self.Ds = nn.Parameter(torch.empty(directions * inner))
        self.out_norm = LayerNorm(inner)
        self.out_proj = nn.Linear(inner, channels, bias=False)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialise the scan: A is -1, -2, ..., -N, and softplus(dt bias) is log-uniform in [1e-3, 1e-1]."""
        inner, rank = self.dt_projs_weight.shape[1:]
        nn.init.uniform_(self.x_proj_weight, -(inner**-0.5), inner**-0.5)
        nn.init.uniform_(self.dt_projs_weight, -(rank**-0.5), rank**-0.5)
        init_dt_bias_(self.dt_projs_bias)
        init_A_log_(self.A_logs)
        nn.init.ones_(self.Ds)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        check_layout(self, x, '(B, H, W, C)', self.channels)
        x = linear(self.in_proj, x)  # (B, H, W, E), or (B, H, W, 2 * E) with a gate
        x, z = x.chunk(2, -1) if self.has_gate else (x, None)
        y = self.out_norm(self._scan(self._convolve(x)))
        return linear(self.out_proj, y if z is None else apply_gate(y, z))

    def _convolve(self, x: Tensor) -> Deferred:
        """SiLU of the convolution: (B, H, W, E) -> (B, H, W, E)."""
        conv = self.conv2d
        if can_use_raw_weights(nn.Conv2d, conv) and _is_depthwise_3x3(conv):
            return defer(conv_silu_2d, x, parameters=(conv.weight, conv.bias))
        # A convolution that was replaced, wrapped or hooked must be called: its weights alone are not enough.
        return defer(F.silu, self._call_conv(x))

    def _scan(self, x: Deferred) -> Tensor:
        """(B, H, W, E) -> (B, H, W, E)."""
        directions = len(self.traversals)
        A_logs = self.A_logs.to(torch.promote_types(self.A_logs.dtype, torch.float32))
        return project_and_scan(
            x,
            self.x_proj_weight,
            A=-torch.exp(A_logs).unflatten(0, (directions, -1)),
            D=self.Ds.unflatten(0, (directions, -1)),
            dt_bias=self.dt_projs_bias,
            dt_weight=self.dt_projs_weight,
            traversals=self.traversals,
        )

    def _call_conv(self, x: Tensor) -> Tensor:
        y = self.conv2d(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        if y.shape != x.shape:
            raise ValueError(
                f'{type(self.conv2d).__name__} in the place of the convolution of SS2D turns a map {tuple(x.shape)} '
                f'into {tuple(y.shape)}: it must keep the shape.'
            )
        return y


def _is_depthwise_3x3(conv: nn.Conv2d) -> bool:
    """Whether it has the geometry of the convolution that SS2D builds."""
    return (
        conv.groups == conv.in_channels == conv.out_channels
        and (conv.kernel_size, conv.padding, conv.stride, conv.dilation) == ((3, 3), (1, 1), (1, 1), (1, 1))
        and conv.padding_mode == 'zeros'
    )
