"""The feed-forward layers of a block, and their fast path for inference on a CPU."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import register_flop_formula

from ..ops.pieces import in_pieces, infers_on_cpu

# oneDNN's linear layer with bias and activation in one pass, which torch.compile uses too; None where PyTorch lacks it.
_linear = getattr(torch.ops.mkldnn, '_linear_pointwise', None) if torch.backends.mkldnn.is_available() else None


class MLP(nn.Module):
    """Two linear layers around a GELU, on the last dimension.

    Inference on a CPU never has the whole hidden layer, and the bias and the GELU are part of oneDNN's product.
    """

    def __init__(self, channels: int, hidden_channels: int):
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden_channels)
        self.fc2 = nn.Linear(hidden_channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return in_pieces(self._fused if self._can_fuse(x) else self._plain, x)

    def _plain(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))

    def _fused(self, x: Tensor) -> Tensor:
        x = _linear(x, self.fc1.weight, self.fc1.bias, 'gelu', [], 'none')
        return _linear(x, self.fc2.weight, self.fc2.bias, 'none', [], '')

    def _can_fuse(self, x: Tensor) -> bool:
        """Whether this is plain float32 inference, without autocast, which would not see the layers.

        A layer with hooks, or what has taken its place, an adapter for instance, is more than a weight and a bias.
        """
        return (
            _linear is not None
            and infers_on_cpu(x)
            and all(type(layer) is nn.Linear and not _hooks(layer) for layer in (self.fc1, self.fc2))
            and torch.backends.mkldnn.enabled
            and x.dtype == self.fc1.weight.dtype == torch.float32
            and not torch.is_autocast_enabled('cpu')
        )


def _hooks(layer: nn.Module) -> bool:
    return bool(layer._forward_pre_hooks or layer._forward_hooks)


if _linear is not None:

    @register_flop_formula(_linear)
    def _count(x, weight, *_, out_shape=None, **__) -> int:
        return 2 * torch.Size(x).numel() * weight[0]
