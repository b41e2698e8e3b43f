"""The head of Vim's max-pooling ablation. It imports mmpretrain, so configs list this module in `custom_imports`."""

from mmpretrain.models import LinearClsHead
from mmpretrain.registry import MODELS
from torch import Tensor


@MODELS.register_module()
class TokenMaxClsHead(LinearClsHead):
    """Classifies every token and takes the maximum of the scores; for `Vim(pooling='max')`."""

    def forward(self, feats: tuple[Tensor]) -> Tensor:
        """One (B, L, in_channels) -> (B, num_classes)."""
        return super().forward(feats).amax(1)
