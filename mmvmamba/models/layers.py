"""Layers shared by the backbones. Maps are channels-last, (B, H, W, C), unless stated otherwise."""

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..memory import compute_recomputable
from ..ops.tracing import in_torch_func_transform


class ChannelsFirst(nn.Module):
    """(B, H, W, C) -> (B, C, H, W), as a view in `torch.channels_last` memory format."""

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 3, 1, 2)


class ChannelsLast(nn.Module):
    """(B, C, H, W) -> (B, H, W, C), as a view."""

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1)


class DropPath(nn.Module):
    """Stochastic depth: in training, drop a sample's branch with probability `p`, scale the others by 1 / (1 - p).

    Source: Deep Networks with Stochastic Depth (arXiv 1603.09382).
    """

    def __init__(self, p: float):
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        keep = x.new_empty(x.shape[0], *[1] * (x.dim() - 1)).bernoulli_(1 - self.p)
        return x * keep.div_(1 - self.p)

    def extra_repr(self) -> str:
        return f'p={self.p:.3f}'


class RMSNorm(nn.Module):
    """Root-mean-square norm of the last dimension with a weight and no bias; statistics in float32 or wider.

    Returns the weight's dtype, so a float32 residual stream can feed 16-bit layers. Source: arXiv 1910.07467.
    """

    def __init__(self, channels: int, eps: float = 1e-5):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return compute_recomputable(partial(rms_norm, eps=self.eps), x, self.weight)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Functional form of `RMSNorm`."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    return F.rms_norm(x, weight.shape, weight.to(x.dtype), eps).to(weight.dtype)


class LayerNorm(nn.LayerNorm):
    """`nn.LayerNorm` that also takes a float32 map with 16-bit weights, and then returns the dtype of the weights."""

    def forward(self, x: Tensor) -> Tensor:
        return compute_recomputable(partial(layer_norm, eps=self.eps), x, self.weight, self.bias)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Functional form of `LayerNorm`."""
    if weight.dtype.itemsize >= x.dtype.itemsize:
        return F.layer_norm(x, weight.shape, weight, bias, eps)
    return F.layer_norm(x, weight.shape, weight.to(x.dtype), bias.to(x.dtype), eps).to(weight.dtype)


class PatchEmbed(nn.Module):
    """Embed square patches, which overlap if `stride` is less than `patch_size`: (B, C, H, W) -> (B, h, w, C').

    h and w count the patches that fit, so up to `stride - 1` pixels at the bottom and at the right are ignored.
    """

    def __init__(self, in_channels: int, channels: int, patch_size: int, stride: int):
        super().__init__()
        self.proj = nn.Conv2d(in_channels, channels, patch_size, stride)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(in_channels_last_format(x)).permute(0, 2, 3, 1)


def in_channels_last_format(x: Tensor) -> Tensor:
    """Convert (B, C, H, W) to channels-last memory; `torch.vmap` does not support that and gets x unchanged."""
    return x if in_torch_func_transform() else x.contiguous(memory_format=torch.channels_last)


def default_dt_rank(channels: int) -> int:
    """Rank of the projection to the step size: ceil(C / 16)."""
    return math.ceil(channels / 16)


@torch.no_grad()
def init_A_log_(A_log: Tensor) -> None:
    """Fill `A_log`, (..., N), with log(1), log(2), ..., log(N), so that A = -exp(A_log) is -1, -2, ..., -N.

    Source: Mamba (arXiv 2312.00752), section 3.6.
    """
    A_log.copy_(torch.arange(1, A_log.shape[-1] + 1).log().expand_as(A_log))


@torch.no_grad()
def init_dt_bias_(bias: Tensor) -> None:
    """Fill the bias of a projection to the step size so that softplus(bias) is log-uniform in [1e-3, 1e-1].

    Source: Mamba (arXiv 2312.00752), section 3.6.
    """
    dt = torch.empty_like(bias).uniform_(math.log(1e-3), math.log(1e-1)).exp_()
    bias.copy_(dt + torch.log(-torch.expm1(-dt)))  # the inverse of softplus
