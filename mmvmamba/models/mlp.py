"""The feed-forward layers of a block."""

from torch import Tensor, nn

from ..ops.cpu_fastpath import feed_forward, infers_on_cpu
from .plain import are_plain
from .units import gelu_linear, normed_linear


class MLP(nn.Module):
    """Two linear layers around a GELU, on the last dimension."""

    def __init__(self, channels: int, hidden_channels: int):
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden_channels)
        self.fc2 = nn.Linear(hidden_channels, channels)

    def forward(self, x: Tensor, norm: nn.Module | None = None) -> Tensor:
        """(..., C) -> (..., C). With `norm`, that of norm(x), which training then need not keep beside x."""
        if infers_on_cpu(x) and are_plain((self.fc1, self.fc2), nn.Linear, bias=True):
            x = x if norm is None else norm(x)
            return feed_forward(x, self.fc1.weight, self.fc1.bias, self.fc2.weight, self.fc2.bias)
        return gelu_linear(self.fc2, normed_linear(norm, self.fc1, x))
