"""Inputs for tests of the scan."""

import torch


def scan_inputs(b, H, W, d, n, K, rank=None, per_traversal=False, D=True, bias=True, dtype=torch.float64, seed=0):
    """Returns arguments of `selective_scan_2d` by name, with typical magnitudes: dt about 0.1, A down to -n."""
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    decay = torch.rand(K, d, n, generator=generator, dtype=torch.float64).to(dtype) + torch.arange(n, dtype=dtype)
    return dict(
        x=randn(b, K, H, W, d) if per_traversal else randn(b, H, W, d),
        dt=randn(b, K, H, W, rank or d),
        A=-decay - 0.05,
        B=randn(b, K, H, W, n),
        C=randn(b, K, H, W, n),
        D=randn(K, d) if D else None,
        dt_bias=randn(K, d) - 2 if bias else None,
        dt_weight=randn(K, d, rank) * rank**-0.5 if rank else None,
    )


def value_and_grads(function, inputs, **options):
    """Returns the output, and the gradients of a fixed projection of it with respect to every tensor input, by name."""
    inputs = {k: t if t is None else t.detach().clone().requires_grad_() for k, t in inputs.items()}
    y = function(**inputs, **options)
    weight = torch.linspace(0, 20, y.numel(), dtype=torch.float64).cos().view(y.shape).to(y.dtype)
    named = {k: t for k, t in inputs.items() if t is not None}
    return y.detach(), dict(zip(named, torch.autograd.grad((y * weight).sum(), list(named.values()))))
