"""BiMamba, the token mixer of Vim: a selective scan over a sequence, forwards and backwards."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops import conv_silu_1d, selective_scan_2d
from ..ops.cpu_fastpath import gate_and_project, infers_on_cpu, project_conv_silu
from ..ops.recompute import keeps_for_backward, linear_of, result_dtype, scan_of
from .arguments import check_layout
from .layers import init_time_step_
from .plain import are_plain
from .units import as_function

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
    """

    def __init__(
        self, channels: int, d_state: int = 16, expand: int = 2, backward: str = 'ssm_conv', divide_out: bool = True
    ):
        super().__init__()
        inner, rank = expand * channels, math.ceil(channels / 16)
        self.channels = channels
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

    def forward(self, x: Tensor, reverse: bool = False, norm: nn.Module | None = None) -> Tensor:
        """(B, L, C) -> (B, L, C). With `reverse`, a mixer of one direction walks the sequence from its end.

        With `norm`, that of norm(x), which training then need not keep beside x.
        """
        check_layout(self, x, '(B, L, C)', self.channels)
        if self._is_plain():
            return self._from_weights(x, reverse, norm)
        x = x if norm is None else norm(x)
        x, z = self.in_proj(x).chunk(2, -1)  # (B, L, E)
        x = torch.stack([F.silu(self._causal(conv, x, from_end)) for conv, from_end in self._convs(reverse)], 1)
        inputs = x.expand(-1, len(self._x_projs), -1, -1).unbind(1)
        projected = torch.stack([x_proj(u) for x_proj, u in zip(self._x_projs, inputs)], 1).unsqueeze(2)
        d_state = self.A_log.shape[1]
        dt, B, C = projected.split((projected.shape[-1] - 2 * d_state, d_state, d_state), -1)  # (B, K, 1, L, .)
        dt = torch.stack([dt_proj(low_rank) for dt_proj, low_rank in zip(self._dt_projs, dt.unbind(1))], 1)
        A, D = self._A_and_D()
        x = _as_maps(x, self.two_scans)
        y = selective_scan_2d(x, dt, A, B, C, D, traversals=self._traversals(reverse), out_dtype=result_dtype(x))
        y = y.squeeze(1) * F.silu(z)  # both directions share the gate, so their sum is gated once
        return self.out_proj(y.to(z.dtype)) * self.scale

    def _is_plain(self) -> bool:
        """Whether every layer is as built: then reading its weight is as good as calling it, and faster."""
        own = self._modules
        back = self.two_scans
        projections = (own['in_proj'], own['out_proj'], own['x_proj']) + ((own['x_proj_b'],) if back else ())
        dt_projs = (own['dt_proj'], own['dt_proj_b']) if back else (own['dt_proj'],)
        convs = (own['conv1d'], own['conv1d_b']) if self.two_convs else (own['conv1d'],)
        return (
            are_plain(projections, nn.Linear, bias=False)
            and are_plain(dt_projs, nn.Linear, bias=True)
            and are_plain(convs, nn.Conv1d, bias=True)
            and all(map(_is_causal_depthwise, convs))
        )

    def _from_weights(self, x: Tensor, reverse: bool, norm: nn.Module | None) -> Tensor:
        """What `forward` composes, of plain layers: dt stays low-rank, and the halves of in_proj are two products.

        So each half is contiguous, and training need not keep the gate's: it keeps x, the other half and y.
        """
        in_weight, gate_weight = self.in_proj.weight.chunk(2)
        convs, from_end = zip(*self._convs(reverse))
        weights = torch.stack([conv.weight for conv in convs]).squeeze(2)
        convolutions = weights, torch.stack([conv.bias for conv in convs])
        function = as_function(norm) if keeps_for_backward() else None
        if function is None:
            x, function = x if norm is None else norm(x), (_identity, ())
        norm, norm_parameters = function

        def convolve(x: Tensor, weights: Tensor, biases: Tensor) -> Tensor:
            return _as_maps(conv_silu_1d(x, weights, biases, from_end), self.two_scans)

        def gate(y: Tensor, x: Tensor, weight: Tensor, *norm_parameters: Tensor) -> Tensor:
            z = F.linear(norm(x, *norm_parameters), weight)
            return (y * F.silu(z)).to(z.dtype)

        if infers_on_cpu(x):
            u = _as_maps(project_conv_silu(x, in_weight, *convolutions, from_end), self.two_scans)
            y = self._scan_weights(_identity, (u,), reverse)
            return gate_and_project(x, y, gate_weight, self.out_proj.weight, self.scale)
        u = linear_of(norm, (x,), norm_parameters, in_weight)
        y = self._scan_weights(convolve, (u, *convolutions), reverse)
        return linear_of(gate, (y, x), (gate_weight, *norm_parameters), self.out_proj.weight) * self.scale

    def _scan_weights(self, make: Callable[..., Tensor], inputs: tuple[Tensor, ...], reverse: bool) -> Tensor:
        """The scan of the maps that `make(*inputs)` gives -> (B, L, E)."""
        A, D = self._A_and_D()
        dt_weight, dt_bias = (torch.stack(parts) for parts in zip(*((p.weight, p.bias) for p in self._dt_projs)))
        x_proj_weight = torch.stack([x_proj.weight for x_proj in self._x_projs])
        return scan_of(make, inputs, x_proj_weight, A, D, dt_bias, dt_weight, self._traversals(reverse)).squeeze(1)

    def _convs(self, reverse: bool) -> list[tuple[nn.Module, bool]]:
        """The convolutions, and whether each looks towards the end of the sequence."""
        return [(self.conv1d, reverse)] + ([(self.conv1d_b, True)] if self.two_convs else [])

    @property
    def _x_projs(self) -> tuple[nn.Module, ...]:
        return (self.x_proj, self.x_proj_b) if self.two_scans else (self.x_proj,)

    @property
    def _dt_projs(self) -> tuple[nn.Module, ...]:
        return (self.dt_proj, self.dt_proj_b) if self.two_scans else (self.dt_proj,)

    @staticmethod
    def _causal(conv: nn.Module, x: Tensor, from_end: bool) -> Tensor:
        """Call the layer so that each position sees itself and those before it (after it, `from_end`)."""
        u = F.pad((x.flip(1) if from_end else x).mT, (KERNEL - 1, 0))
        y = conv(u).mT
        if y.shape != x.shape:
            raise ValueError(
                f'{type(conv).__name__} in the place of a convolution of BiMamba turns {tuple(u.shape)} into '
                f'{tuple(y.mT.shape)}, but {tuple(x.mT.shape)} is needed: {KERNEL} taps, stride 1 and no padding.'
            )
        return y.flip(1) if from_end else y

    def _A_and_D(self) -> tuple[Tensor, Tensor]:
        """(K, E, N) and (K, E)."""
        A_log, D = self.A_log[None], self.D[None]
        if self.two_scans:
            A_log, D = torch.stack([self.A_log, self.A_b_log]), torch.stack([self.D, self.D_b])
        return -torch.exp(A_log.to(torch.promote_types(A_log.dtype, torch.float32))), D

    def _traversals(self, reverse: bool) -> tuple[str, ...]:
        return ('row', 'row_reversed') if self.two_scans else ('row_reversed' if reverse else 'row',)


def _as_maps(x: Tensor, two_scans: bool) -> Tensor:
    """(B, 1 or K, L, E) as the scan reads maps of height 1: one that two directions share, or one for each."""
    return x if x.shape[1] == 1 and two_scans else x.unsqueeze(2)


def _identity(x: Tensor) -> Tensor:
    return x


def _is_causal_depthwise(conv: nn.Conv1d) -> bool:
    """Whether it is the convolution that BiMamba makes."""
    return (
        conv.groups == conv.out_channels
        and (conv.padding, conv.stride, conv.dilation) == ((0,), (1,), (1,))
        and conv.weight.shape[1:] == (1, KERNEL)
    )
