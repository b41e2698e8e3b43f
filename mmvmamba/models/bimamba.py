"""BiMamba, the token mixer of Vim: a selective scan over a sequence, forwards and backwards."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..memory import (
    Deferred,
    apply_gate,
    as_maps,
    as_tensor,
    can_use_raw_weights,
    causal_conv_silu,
    linear,
    project_and_scan,
    scan_dtype,
    split_linear,
)
from ..ops import selective_scan_2d
from .layers import default_dt_rank, init_A_log_, init_dt_bias_
from .validation import check_layout, reject_torchscript

KERNEL = 4  # taps of the causal convolution


class BiMamba(nn.Module):
    """Bidirectional Mamba: in_proj -> causal depthwise conv -> SiLU -> scan, in both directions -> gate -> out_proj.

    The backward direction convolves and scans the same tensor from its end, without flipping it.
    Source: Vim (arXiv 2401.09417), section 3.3 and Algorithm 1; parameter names are those of the released checkpoints.

    Args:
        channels: C, channels in and out.
        d_state: N, size of the state of one channel.
        expand: the inner width is E = expand * C.
        backward_direction: the layers that the backward direction of the scan has of its own. 'ssm_conv': convolution,
            x_proj, dt_proj, A and D. 'ssm': x_proj, dt_proj, A and D; both directions scan the output of one
            convolution. 'none': there is no backward direction. in_proj and out_proj are always shared.
        divide_out: halve the sum of two directions.
    """

    __prepare_scriptable__ = reject_torchscript

    def __init__(
        self,
        channels: int,
        d_state: int = 16,
        expand: int = 2,
        backward_direction: str = 'ssm_conv',
        divide_out: bool = True,
    ):
        super().__init__()
        inner, rank = expand * channels, default_dt_rank(channels)
        self.channels = channels
        self.two_convs = backward_direction == 'ssm_conv'
        self.two_scans = backward_direction != 'none'
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
        """Initialise the scan: A is -1, -2, ..., -N, and softplus(dt bias) is log-uniform in [1e-3, 1e-1].

        In the backward direction, the projection to the step size (dt_proj_b) has PyTorch's default weights and a bias
        of 0, as in the official code.
        """
        rank = self.dt_proj.in_features
        nn.init.uniform_(self.dt_proj.weight, -(rank**-0.5), rank**-0.5)
        init_dt_bias_(self.dt_proj.bias)
        init_A_log_(self.A_log)
        nn.init.ones_(self.D)
        if self.two_scans:
            nn.init.zeros_(self.dt_proj_b.bias)
            self.A_b_log.copy_(self.A_log)
            nn.init.ones_(self.D_b)

    def forward(self, x: Tensor, reverse: bool = False) -> Tensor:
        """(B, L, C) -> (B, L, C).

        Args:
            reverse: convolve and scan from the end; only for a mixer without a backward direction.
        """
        check_layout(self, x, '(B, L, C)', self.channels)
        u, z = split_linear(self.in_proj, x)  # (B, L, E) each; z is a Deferred, in inference on a CPU also u
        y = self._scan(self._convolve(u, reverse), reverse)
        y = apply_gate(y, z)  # the gate is the same for both directions, so it is applied once, to their sum
        return linear(self.out_proj, y) * self.scale

    def _convolve(self, x: Tensor | Deferred, reverse: bool) -> Tensor | Deferred:
        """Convolution and SiLU: (B, L, E) -> maps of height 1.

        Returns:
            (B, 1, L, E) with one convolution, whose output both directions share, else (B, 2, 1, L, E).
        """
        convs, from_end = zip(*self._convs(reverse))
        if can_use_raw_weights(nn.Conv1d, *convs) and all(map(_is_causal_depthwise, convs)):
            weights = torch.stack([conv.weight for conv in convs]).squeeze(2)
            biases = torch.stack([conv.bias for conv in convs])
            return causal_conv_silu(x, weights, biases, from_end)
        x = as_tensor(x)  # a convolution was replaced, wrapped or hooked: call it
        outputs = [F.silu(self._call_causal(conv, x, end)) for conv, end in zip(convs, from_end)]
        stacked = torch.stack(outputs, 1)  # (B, K, L, E) for K convolutions
        return as_maps(stacked)  # if K is 1, this axis serves as the height, else the height is inserted

    def _scan(self, x: Tensor | Deferred, reverse: bool) -> Tensor:
        """Maps of height 1, as `_convolve` returns them -> (B, L, E)."""
        A_log, D = self.A_log[None], self.D[None]
        traversals = ('row_reversed',) if reverse else ('row',)
        x_projs, dt_projs = (self.x_proj,), (self.dt_proj,)
        if self.two_scans:
            A_log, D = torch.stack([self.A_log, self.A_b_log]), torch.stack([self.D, self.D_b])
            x_projs, dt_projs = (self.x_proj, self.x_proj_b), (self.dt_proj, self.dt_proj_b)
            traversals = ('row', 'row_reversed')
        A = -torch.exp(A_log.to(torch.promote_types(A_log.dtype, torch.float32)))
        if can_use_raw_weights(nn.Linear, *x_projs, *dt_projs) and _only_dt_projs_have_bias(x_projs, dt_projs):
            x_proj_weight = torch.stack([x_proj.weight for x_proj in x_projs])
            dt_weight = torch.stack([dt_proj.weight for dt_proj in dt_projs])
            dt_bias = torch.stack([dt_proj.bias for dt_proj in dt_projs])
            return project_and_scan(x, x_proj_weight, A, D, dt_bias, dt_weight, traversals).squeeze(1)
        x, d_state = as_tensor(x), A.shape[-1]  # a projection was replaced, wrapped or hooked: call it
        maps = x.unbind(1) if x.dim() == 5 else [x] * len(x_projs)  # (B, 1, L, E) each
        projected = torch.stack([x_proj(u) for x_proj, u in zip(x_projs, maps)], 1)
        dt, B, C = projected.split(
            (projected.shape[-1] - 2 * d_state, d_state, d_state), -1
        )  # (B, K, 1, L, rank or N) for K directions
        # the layers apply dt_weight and dt_bias, so the scan receives neither
        dt = torch.stack([dt_proj(low_rank) for dt_proj, low_rank in zip(dt_projs, dt.unbind(1))], 1)
        return selective_scan_2d(x, dt, A, B, C, D, traversals=traversals, out_dtype=scan_dtype(x)).squeeze(1)

    def _convs(self, reverse: bool) -> list[tuple[nn.Conv1d, bool]]:
        """Pairs (layer, from_end): with `from_end`, a position reads itself and later positions, else earlier ones."""
        return [(self.conv1d, reverse)] + ([(self.conv1d_b, True)] if self.two_convs else [])

    @staticmethod
    def _call_causal(conv: nn.Module, x: Tensor, from_end: bool) -> Tensor:
        """Call the layer so that a position reads itself and earlier ones, or later ones if `from_end`."""
        u = F.pad((x.flip(1) if from_end else x).mT, (KERNEL - 1, 0))
        y = conv(u).mT
        if y.shape != x.shape:
            raise ValueError(
                f'{type(conv).__name__} in the place of a convolution of BiMamba turns {tuple(u.shape)} into '
                f'{tuple(y.mT.shape)}, but {tuple(x.mT.shape)} is needed: {KERNEL} taps, stride 1 and no padding.'
            )
        return y.flip(1) if from_end else y


def _is_causal_depthwise(conv: nn.Conv1d) -> bool:
    """Whether it has the geometry of the convolution that BiMamba builds."""
    return (
        conv.bias is not None
        and conv.groups == conv.out_channels
        and (conv.padding, conv.stride, conv.dilation) == ((0,), (1,), (1,))
        and conv.weight.shape[1:] == (1, KERNEL)
    )


def _only_dt_projs_have_bias(x_projs: tuple[nn.Linear, ...], dt_projs: tuple[nn.Linear, ...]) -> bool:
    """Whether only the projections to the step size have a bias, as BiMamba builds them."""
    return all(p.bias is None for p in x_projs) and all(p.bias is not None for p in dt_projs)
