"""Tests that the fast inference path of the MLP matches training."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from mmvmamba.memory import use_cpu_fast_path
from mmvmamba.models.mlp import MLP


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('size', [(2, 45, 47), (1, 3, 5)])  # 4230 positions: three chunks, the last one incomplete
def test_inference_equals_training(size, dtype):
    mlp, x = MLP(8, 32).to(dtype), torch.randn(*size, 8, dtype=dtype)
    expected = mlp(x)
    with torch.no_grad():
        torch.testing.assert_close(mlp(x), expected, atol=1e-6, rtol=1e-5)
        with torch.backends.mkldnn.flags(enabled=False):
            torch.testing.assert_close(mlp(x), expected)


class Operators(TorchDispatchMode):
    """Records the names of the operators that run."""

    def __enter__(self):
        self.names = set()
        return super().__enter__()

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        self.names.add(str(operator))
        return operator(*args, **kwargs or {})


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason='PyTorch without oneDNN')
def test_fast_path_is_used_and_can_be_disabled():
    mlp, x = MLP(8, 32), torch.randn(1, 3, 5, 8)
    fused = 'mkldnn._linear_pointwise.default'
    with torch.no_grad(), Operators() as operators:
        expected = mlp(x)
        assert fused in operators.names
    with torch.no_grad(), use_cpu_fast_path(False), Operators() as operators:
        torch.testing.assert_close(mlp(x), expected)
        assert fused not in operators.names


def test_autocast_applies_to_the_layers():
    with torch.no_grad(), torch.autocast('cpu', torch.bfloat16):
        assert MLP(8, 32)(torch.randn(1, 3, 5, 8)).dtype == torch.bfloat16


def test_flops_are_counted():
    mlp, x = MLP(8, 32), torch.randn(1, 3, 5, 8)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        mlp(x)
    assert counter.get_total_flops() == 2 * 2 * 15 * 8 * 32


def test_forward_hook_is_called():
    mlp, x = MLP(8, 32), torch.randn(1, 3, 5, 8)
    mlp.fc1.register_forward_hook(lambda layer, inputs, output: output + 1)
    expected = mlp(x)
    with torch.no_grad():
        torch.testing.assert_close(mlp(x), expected)


def test_replaced_layer_is_called():
    class Adapter(torch.nn.Linear):
        def forward(self, x):
            return super().forward(x) + 1

    mlp, x = MLP(8, 32), torch.randn(1, 3, 5, 8)
    mlp.fc2 = Adapter(32, 8)
    expected = mlp(x)
    with torch.no_grad():
        torch.testing.assert_close(mlp(x), expected)
