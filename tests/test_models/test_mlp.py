"""The fast path of inference gives what training gives."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from mmvmamba.models.mlp import MLP


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('size', [(2, 45, 47), (1, 3, 5)])  # 4230 positions: more than two pieces, the last one short
def test_inference_equals_training(size, dtype):
    mlp, x = MLP(8, 32).to(dtype), torch.randn(*size, 8, dtype=dtype)
    expected = mlp(x)
    with torch.no_grad():
        torch.testing.assert_close(mlp(x), expected, atol=1e-6, rtol=1e-5)
        with torch.backends.mkldnn.flags(enabled=False):
            torch.testing.assert_close(mlp(x), expected)


def test_autocast_reaches_the_layers():
    with torch.no_grad(), torch.autocast('cpu', torch.bfloat16):
        assert MLP(8, 32)(torch.randn(1, 3, 5, 8)).dtype == torch.bfloat16


def test_operations_are_counted():
    mlp, x = MLP(8, 32), torch.randn(1, 3, 5, 8)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        mlp(x)
    assert counter.get_total_flops() == 2 * 2 * 15 * 8 * 32


def test_a_hook_is_called():
    mlp, x = MLP(8, 32), torch.randn(1, 3, 5, 8)
    mlp.fc1.register_forward_hook(lambda layer, inputs, output: output + 1)
    expected = mlp(x)
    with torch.no_grad():
        torch.testing.assert_close(mlp(x), expected)


def test_a_replaced_layer_is_called():
    class Adapter(torch.nn.Linear):
        def forward(self, x):
            return super().forward(x) + 1

    mlp, x = MLP(8, 32), torch.randn(1, 3, 5, 8)
    mlp.fc2 = Adapter(32, 8)
    expected = mlp(x)
    with torch.no_grad():
        torch.testing.assert_close(mlp(x), expected)
