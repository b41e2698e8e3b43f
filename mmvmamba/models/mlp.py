"""The feed-forward layers of a block."""

from torch import Tensor, nn

from ..memory import linear, linear_gelu


class MLP(nn.Module):
    """Two linear layers around a GELU, on the last dimension."""

    def __init__(self, channels: int, hidden_channels: int):
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden_channels)
        self.fc2 = nn.Linear(hidden_channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C)."""
        return linear(self.fc2, linear_gelu(self.fc1, x))
