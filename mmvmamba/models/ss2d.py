"""SS2D, the token mixer of VMamba: a selective scan over a map in several traversals."""

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..ops import CROSS, selective_scan_2d
from .layers import init_time_step_


class SS2D(nn.Module):
    """2-D selective scan: in_proj -> depthwise 3x3 conv -> SiLU -> scan -> LayerNorm (-> gate) -> out_proj.

    The projections to the time step, B and C act on each position alone, so they are computed once, in natural order,
    for all traversals.
    Source: VMamba (arXiv 2401.10166), section 4.2 and Figure 3; parameter names are those of the released checkpoints.

    Args:
        channels: C, channels in and out.
        d_state: N, size of the state of one channel.
        ssm_ratio: the inner width is E = ssm_ratio * C.
        dt_rank: R, rank of the time-step projection; 'auto' is ceil(C / 16).
        gate: multiply the output by SiLU of a second branch of in_proj (first generation).
        conv_bias: bias of the depthwise convolution.
        traversals: one of 'row', 'column', 'row_reversed', 'column_reversed' for each of the K directions.
    """

    def __init__(
        self,
        channels: int,
        d_state: int = 1,
        ssm_ratio: float = 2.0,
        dt_rank: int | str = 'auto',
        gate: bool = False,
        conv_bias: bool = False,
        traversals: tuple[str, ...] = CROSS,
    ):
        super().__init__()
        inner = int(ssm_ratio * channels)
        rank = math.ceil(channels / 16) if dt_rank == 'auto' else dt_rank
        directions = len(traversals)
        self.traversals = traversals
        self.gate = gate
        self.in_proj = nn.Linear(channels, 2 * inner if gate else inner, bias=False)
        self.conv2d = nn.Conv2d(inner, inner, 3, padding=1, groups=inner, bias=conv_bias)
        self.x_proj_weight = nn.Parameter(torch.empty(directions, rank + 2 * d_state, inner))
        self.dt_projs_weight = nn.Parameter(torch.empty(directions, inner, rank))
        self.dt_projs_bias = nn.Parameter(torch.empty(directions, inner))
        self.A_logs = nn.Parameter(torch.empty(directions * inner, d_state))
        self.Ds = nn.Parameter(torch.empty(directions * inner))
        self.out_norm = nn.LayerNorm(inner)
        self.out_proj = nn.Linear(inner, channels, bias=False)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialise what the scan reads: A is -1, -2, ..., -N, and softplus(dt bias) log-uniform in [1e-3, 1e-1]."""
        inner, rank = self.dt_projs_weight.shape[1:]
        nn.init.uniform_(self.x_proj_weight, -(inner**-0.5), inner**-0.5)
        nn.init.uniform_(self.dt_projs_weight, -(rank**-0.5), rank**-0.5)
        init_time_step_(self.dt_projs_bias)
        self.A_logs.copy_(torch.arange(1, self.A_logs.shape[1] + 1).log().expand_as(self.A_logs))
        nn.init.ones_(self.Ds)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        directions, _, rank = self.dt_projs_weight.shape
        d_state = self.A_logs.shape[1]
        x = self.in_proj(x)
        if self.gate:
            x, z = x.chunk(2, -1)
        x = self.conv2d(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)  # (B, H, W, E)
        x = F.silu(x)
        projected = F.linear(x, self.x_proj_weight.flatten(0, 1))
        projected = rearrange(projected, 'b h w (k c) -> b k h w c', k=directions)
        dt, B, C = projected.split((rank, d_state, d_state), -1)
        state_dtype = torch.promote_types(self.A_logs.dtype, torch.float32)
        y = selective_scan_2d(
            x,
            dt,
            -torch.exp(self.A_logs.to(state_dtype)).unflatten(0, (directions, -1)),
            B,
            C,
            D=self.Ds.unflatten(0, (directions, -1)),
            dt_bias=self.dt_projs_bias,
            dt_weight=self.dt_projs_weight,
            traversals=self.traversals,
            # a sum of K maps may overflow float16 before the norm
            out_dtype=torch.promote_types(x.dtype, torch.float32),
        )
        y = self.out_norm(y)
        if self.gate:
            y = y * F.silu(z)
        return self.out_proj(y)
