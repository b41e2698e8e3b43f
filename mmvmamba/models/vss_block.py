"""The block of VMamba."""

from torch import Tensor, nn

from .layers import DropPath, LayerNorm
from .mlp import MLP
from .ss2d import SS2D
from .validation import check_layout


class VSSBlock(nn.Module):
    """Pre-norm residual block: x + SS2D(norm(x)), then, in the current generation, x + MLP(norm2(x))."""

    def __init__(self, channels: int, op: SS2D, mlp_ratio: float, drop_path: float):
        super().__init__()
        self.channels = channels
        self.norm = LayerNorm(channels)
        self.op = op
        self.drop_path = DropPath(drop_path)
        self.has_mlp = mlp_ratio > 0
        if self.has_mlp:
            self.norm2 = LayerNorm(channels)
            self.mlp = MLP(channels, int(mlp_ratio * channels))

    def forward(self, x: Tensor) -> Tensor:
        check_layout(self, x, '(B, H, W, C)', self.channels)
        x = x + self.drop_path(self.op(self.norm(x)))
        if self.has_mlp:
            x = x + self.drop_path(self.mlp(self.norm2(x)))
        return x
