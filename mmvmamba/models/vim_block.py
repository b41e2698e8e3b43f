"""The block of Vim."""

from torch import Tensor, nn

from .bimamba import BiMamba
from .layers import DropPath, RMSNorm
from .validation import check_layout


class VimBlock(nn.Module):
    """Pre-norm residual block without MLP. The residual stream stays in float32 for any dtype of the mixer."""

    def __init__(self, channels: int, mixer: BiMamba, drop_path: float):
        super().__init__()
        self.channels = channels
        self.norm = RMSNorm(channels)
        self.mixer = mixer
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, reverse: bool) -> tuple[Tensor, Tensor]:
        """(B, L, C) -> the output of the mixer and the new residual stream, both (B, L, C)."""
        check_layout(self, x, '(B, L, C)', self.channels)
        mixed = self.mixer(self.norm(x), reverse)
        return mixed, x + self.drop_path(mixed)
