"""Layers that the backbones share."""

import torch

from mmvmamba.models.layers import MLP


def test_mlp_in_pieces_equals_the_whole():
    mlp, x = MLP(8, 32), torch.randn(2, 45, 47, 8)  # 4230 positions: more than two pieces, the last one short
    whole = mlp(x)
    with torch.no_grad():
        torch.testing.assert_close(mlp(x), whole)
