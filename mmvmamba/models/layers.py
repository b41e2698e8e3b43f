"""Layers that the backbones share. Maps are channels-last, (B, H, W, C), unless a name says otherwise."""

import torch.nn.functional as F
from torch import Tensor, nn


class ChannelsFirst(nn.Module):
    """(B, H, W, C) -> (B, C, H, W), a view: convolutions see it as a channels-last tensor."""

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 3, 1, 2)


class ChannelsLast(nn.Module):
    """(B, C, H, W) -> (B, H, W, C), a view."""

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


class MLP(nn.Module):
    """Two linear layers around a GELU, on the last dimension."""

    def __init__(self, channels: int, hidden_channels: int):
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden_channels)
        self.fc2 = nn.Linear(hidden_channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))
