"""The head of Vim's max-pooling ablation; it imports mmpretrain, so a config names it in `custom_imports`."""

from mmpretrain.models import LinearClsHead
from mmpretrain.registry import MODELS
from torch import Tensor


@MODELS.register_module()
class TokenMaxClsHead(LinearClsHead):
    """A linear classifier of every token, and the maximum of their scores. Goes with `Vim(pooling='max')`."""

    def forward(self, feats: tuple[Tensor]) -> Tensor:
        """One (B, L, in_channels) -> (B, num_classes)."""
        return super().forward(feats).amax(1)
