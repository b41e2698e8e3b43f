"""Tests deferred values, and that the output of a norm is recomputed only if nothing observed or modified it."""

import pytest
import torch
from torch import nn

from mmvmamba.memory import as_tensor, defer, linear
from mmvmamba.memory.deferred import deferred_or_none
from mmvmamba.models.layers import LayerNorm, RMSNorm


@pytest.fixture(params=[LayerNorm, RMSNorm])
def normed(request):
    torch.manual_seed(0)
    norm = request.param(8)
    return norm(torch.randn(2, 5, 8, requires_grad=True))


def test_deferred_inputs_are_composed(normed):
    z, weight = torch.randn(2, 5, 8), torch.randn(8)
    product = defer(torch.mul, normed, defer(torch.sin, z), parameters=())
    scaled = defer(lambda x, weight: x * weight, product, parameters=(weight,))
    torch.testing.assert_close(as_tensor(scaled), normed * z.sin() * weight)
    assert [t.shape for t in scaled.maps] == [(2, 5, 8)] * 2
    assert scaled.maps[0] is not normed, 'the input of the norm is kept, not its output'


def test_norm_output_is_recomputable_in_training_only(normed):
    assert deferred_or_none(normed) is not None
    with torch.no_grad():
        assert deferred_or_none(RMSNorm(8)(torch.randn(2, 8))) is None
    assert deferred_or_none(torch.randn(2, 8)) is None


@pytest.mark.parametrize(
    'change',
    [
        lambda x: x.mul_(2),
        lambda x: x.retain_grad(),
        lambda x: x.register_hook(lambda grad: None),
    ],
    ids=['modified in place', 'retain_grad', 'tensor hook'],
)
def test_observed_or_modified_norm_output_is_not_recomputed(normed, change):
    change(normed)
    assert deferred_or_none(normed) is None


def test_tensor_hook_of_a_norm_output_fires():
    """Grad-CAM registers such a hook inside a forward hook of the norm."""
    norm, layer, x = LayerNorm(8), nn.Linear(8, 3), torch.randn(2, 8, requires_grad=True)
    grads = []
    norm.register_forward_hook(lambda module, inputs, output: output.register_hook(grads.append) and None)
    linear(layer, norm(x)).sum().backward()
    torch.testing.assert_close(grads[0], layer.weight.sum(0).expand(2, 8))
