"""The operators on rows in float64."""

import torch
import torch.nn.functional as F


def expected_gelu(x, bias):
    return F.gelu(x.double() + bias.double())


def expected_norm(x, weight, shift, residual, bias, rms, with_sum=False, epsilon=1e-5):
    """Returns y, or y and the sum before the norm."""
    total = x.double()
    for added in (residual, bias):
        total = total if added is None else total + added.double()
    shape = weight.shape
    if rms:
        y = F.rms_norm(total, shape, weight.double(), epsilon)
        y = y if shift is None else y + shift.double()
    else:
        y = F.layer_norm(total, shape, weight.double(), None if shift is None else shift.double(), epsilon)
    return (y, total) if with_sum else y


def agrees(y, expected):
    """Whether a result is identical to that of the same kernel, or equal to one in float64 up to rounding."""
    if expected.dtype == y.dtype:
        return torch.equal(y, expected)
    if y.shape != expected.shape or not y.numel():
        return y.shape == expected.shape
    return ((y - expected).abs().max() <= 1e-6 * expected.abs().max()).item()
