"""BiMamba, the token mixer of Vim: a selective scan over a sequence, forwards and backwards."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops import selective_scan_2d
from ..ops.causal_conv import project_conv_silu
from ..ops.pieces import in_pieces
from .layers import init_time_step_

KERNEL = 4  # taps of the causal convolution


class BiMamba(nn.Module):
    """Bidirectional Mamba: in_proj -> causal depthwise conv -> SiLU -> scan, in both directions -> gate -> out_proj.

    No tensor is ever flipped: the backward direction convolves and scans towards the start of the same sequence.
    Source: Vim (arXiv 2401.09417), section 3.3 and Algorithm 1; parameter names are those of the released checkpoints.

    Args:
        channels: C, channels in and out.
        d_state: N, size of the state of one channel.
        expand: the inner width is E = expand * C.
        backward: what the backward direction has of its own: 'ssm_conv' (the convolution, the projections, A and D),
            'ssm' (all but the convolution: it scans the forward one's output), or 'none' (there is no such direction).
        divide_out: halve the sum of two directions.

    Raises:
        TypeError: in the forward pass, if something that is no such layer has taken the place of one whose weight is
            read without calling it: all but out_proj.
    """

    def __init__(
        self, channels: int, d_state: int = 16, expand: int = 2, backward: str = 'ssm_conv', divide_out: bool = True
    ):
        super().__init__()
        inner, rank = expand * channels, math.ceil(channels / 16)
        self.two_convs = backward == 'ssm_conv'
        self.two_scans = backward != 'none'
        self.scale = 0.5 if self.two_scans and divide_out else 1.0
        self.in_proj = nn.Linear(channels, 2 * inner, bias=False)
        self.conv1d = nn.Conv1d(inner, inner, KERNEL, groups=inner)
        self.x_proj = nn.Linear(inner, rank + 2 * d_state, bias=False)
        self.dt_proj = nn.Linear(rank, inner)
        self.A_log = nn.Parameter(torch.empty(inner, d_state))
        self.D = nn.Parameter(torch.empty(inner))
        if self.two_convs:
            self.conv1d_b = nn.Conv1d(inner, inner, KERNEL, groups=inner)
        if self.two_scans:
            self.x_proj_b = nn.Linear(inner, rank + 2 * d_state, bias=False)
            self.dt_proj_b = nn.Linear(rank, inner)
            self.A_b_log = nn.Parameter(torch.empty(inner, d_state))
            self.D_b = nn.Parameter(torch.empty(inner))
        self.out_proj = nn.Linear(inner, channels, bias=False)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialise what the scan reads: A is -1, -2, ..., -N and softplus(dt bias) log-uniform in [1e-3, 1e-1].

        The backward direction's time step keeps PyTorch's weights and a bias of 0, as in the official code.
        """
        rank = self.dt_proj.in_features
        nn.init.uniform_(self.dt_proj.weight, -(rank**-0.5), rank**-0.5)
        init_time_step_(self.dt_proj.bias)
        self.A_log.copy_(torch.arange(1, self.A_log.shape[1] + 1).log().expand_as(self.A_log))
        nn.init.ones_(self.D)
        if self.two_scans:
            nn.init.zeros_(self.dt_proj_b.bias)
            self.A_b_log.copy_(self.A_log)
            nn.init.ones_(self.D_b)

    def forward(self, x: Tensor, reverse: bool = False) -> Tensor:
        """(B, L, C) -> (B, L, C). With `reverse`, a mixer of one direction walks the sequence from its end."""
        self._check_layers()
        # two products, so that each half is contiguous: the convolution and the gate would copy the halves of one
        in_weight, gate_weight = self.in_proj.weight.chunk(2)
        y = self._scan(x, in_weight, reverse)

        def gate_and_project(x: Tensor, y: Tensor) -> Tensor:
            gate = F.linear(x, gate_weight)
            y = y * F.silu(gate)  # both directions share the gate, so their sum is gated once
            return self.out_proj(y.to(gate.dtype)) * self.scale

        return in_pieces(gate_and_project, x, y)

    def _check_layers(self) -> None:
        for name, layer in self.named_children():
            if name != 'out_proj' and not isinstance(layer, (nn.Linear, nn.Conv1d)):
                raise TypeError(
                    f'{type(layer).__name__} in place of BiMamba.{name} would have no effect, because only the weight '
                    'is read: adapt out_proj or the whole mixer instead.'
                )

    def _scan(self, x: Tensor, in_weight: Tensor, reverse: bool) -> Tensor:
        """(B, L, C) -> (B, L, E), float32 at least: projection, convolutions, SiLU and the sum of the scans."""
        convs = [(self.conv1d, reverse)]
        scans = [(self.x_proj, self.dt_proj, self.A_log, self.D)]
        if self.two_convs:
            convs.append((self.conv1d_b, True))
        if self.two_scans:
            scans.append((self.x_proj_b, self.dt_proj_b, self.A_b_log, self.D_b))
        x_projs, dt_projs, A_logs, Ds = zip(*scans)

        weights, biases, from_end = zip(*((conv.weight, conv.bias, from_end) for conv, from_end in convs))
        x = project_conv_silu(x, in_weight, weights, biases, from_end)  # (B, 1 or 2, L, E)
        projected = x @ torch.stack([x_proj.weight for x_proj in x_projs]).mT  # (B, K, L, R + 2N)
        projected = projected.unsqueeze(2)
        d_state = self.A_log.shape[1]
        dt, B, C = projected.split((self.dt_proj.in_features, d_state, d_state), -1)
        state_dtype = torch.promote_types(self.A_log.dtype, torch.float32)
        y = selective_scan_2d(
            x if x.shape[1] < len(scans) else x.unsqueeze(2),
            dt,
            -torch.exp(torch.stack(A_logs).to(state_dtype)),
            B,
            C,
            D=torch.stack(Ds),
            dt_bias=torch.stack([dt_proj.bias for dt_proj in dt_projs]),
            dt_weight=torch.stack([dt_proj.weight for dt_proj in dt_projs]),
            traversals=('row', 'row_reversed') if self.two_scans else ('row_reversed' if reverse else 'row',),
            out_dtype=torch.promote_types(x.dtype, torch.float32),
        )
        return y.squeeze(1)
