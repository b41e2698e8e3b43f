"""Every precision, in every way that people choose one: right to the accuracy of the type."""

import copy
from functools import partial

import pytest
import torch
import torch.distributed as dist
from mmengine.optim import AmpOptimWrapper
from mmengine.optim.optimizer import amp_optimizer_wrapper
from mmengine.runner import amp
from torch.distributed.fsdp import FullyShardedDataParallel, MixedPrecision
from torch.multiprocessing import spawn

from mmvmamba import Vim, VMamba
from mmvmamba.models.vmamba import ARCHS
from mmvmamba.ops import use_backend

SMALL = {
    'VMamba, one state': lambda: VMamba(dict(dims=16, depths=(1, 1, 1, 1), ssm_ratio=1.0), drop_path_rate=0.0),
    'VMamba, vanilla': lambda: VMamba(
        ARCHS['vanilla_tiny'] | dict(dims=16, depths=(1, 1, 1, 1), d_state=4), drop_path_rate=0.0
    ),
    'Vim': lambda: Vim(dict(embed_dims=32, depth=2, d_state=4)),
    'Vim, shared convolution': lambda: Vim(dict(embed_dims=32, depth=2, d_state=4), bidirectionality='ssm'),
    'Vim, class token, rotary': lambda: Vim(
        dict(embed_dims=32, depth=2, d_state=4), pooling='middle', rope_grid=14, img_size=64
    ),
}
HALVES = (torch.float16, torch.bfloat16)


@pytest.fixture(params=SMALL)
def model(request):
    torch.manual_seed(0)
    return SMALL[request.param]().eval()


def image(dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 3, 64, 96, generator=generator).to(dtype)


def outputs_and_gradients(model, x):
    outs = model(x)
    loss(outs).backward()
    return outs, {name: parameter.grad for name, parameter in model.named_parameters()}


def loss(outs):
    """Scaled as training in float16 does it, lest small gradients vanish."""
    generator = torch.Generator().manual_seed(2)
    weights = [torch.randn(out.shape, generator=generator, dtype=torch.float64) + 0.5 for out in outs]
    return 16 * sum((out.double() * weight).sum() for out, weight in zip(outs, weights))


def error(a, b):
    """Relative, in the mean over the tensor."""
    return ((a.double() - b.double()).norm() / b.double().norm().clamp(min=1e-30)).item()


@pytest.mark.parametrize('dtype', [*HALVES, torch.float32])
def test_a_whole_model_in_one_type(model, dtype):
    """Against float64 of the same rounded weights and images."""
    model, x = model.to(dtype), image(dtype)
    exact = copy.deepcopy(model).double()
    outs, grads = outputs_and_gradients(model, x)
    exact_outs, exact_grads = outputs_and_gradients(exact, x.double())
    with torch.inference_mode():
        inferred = model(x)
    assert {t.dtype for t in (*outs, *inferred, *grads.values())} == {dtype}
    check(outs, inferred, grads, exact_outs, exact_grads, dtype)


def check(outs, inferred, grads, exact_outs, exact_grads, dtype):
    """A 16-bit type is rounded to between operations only; float32 is what the operations compute in, too."""
    eps = torch.finfo(dtype).eps * (1 if dtype in HALVES else 4)
    assert max(map(error, outs, exact_outs)) < 2 * eps
    assert max(map(error, inferred, exact_outs)) < 2 * eps
    for name, grad in grads.items():
        assert error(grad, exact_grads[name]) < 16 * eps, name


@pytest.mark.parametrize('dtype', [*HALVES, torch.float32])
@pytest.mark.parametrize('values', [(0.0,), (6e-8,), (65504.0,), (65504.0, -65504.0)])
def test_images_at_the_ends_of_float16(model, dtype, values):
    """Only what the first convolution makes of one, if that leaves the type, may be more than a number."""
    x = torch.tensor(values).repeat(48 // len(values)).expand(1, 3, 32, 48).to(dtype)
    model = model.to(dtype)
    exact = copy.deepcopy(model).double()
    conv = next(module for module in exact.modules() if isinstance(module, torch.nn.Conv2d))
    outs = model(x)
    sum(out.float().square().mean() for out in outs).backward()
    if conv(x.double()).abs().max() > torch.finfo(dtype).max:
        assert dtype == torch.float16
        return
    eps = torch.finfo(dtype).eps * (1 if dtype in HALVES else 4)
    assert max(map(error, outs, exact(x.double()))) < 3 * eps
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_double_is_exact_to_double(model):
    """Some of a float64 gradient is in digits that float32 does not have; in inference they are the same."""
    model, x = model.double(), image(torch.float64)[..., :32, :48]
    outs, grads = outputs_and_gradients(model, x)
    assert {t.dtype for t in (*outs, *grads.values())} == {torch.float64}
    with torch.inference_mode():
        assert max(map(error, model(x), outs)) < 1e-13
    for parameter in model.parameters():
        parameter.grad = None
    with use_backend('reference'):
        _, expected = outputs_and_gradients(model, x)
    assert max(error(grad, expected[name]) for name, grad in grads.items()) < 1e-11


@pytest.mark.parametrize('dtype', HALVES)
def test_autocast(model, dtype):
    """Weights and gradients stay float32, with the errors of 16-bit products."""
    exact = copy.deepcopy(model).double()
    with torch.autocast('cpu', dtype):
        outs = model(image())
        with torch.inference_mode():
            inferred = model(image())
    loss(outs).backward()
    grads = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert {grad.dtype for grad in grads.values()} == {torch.float32}
    check(outs, inferred, grads, *outputs_and_gradients(exact, image().double()), dtype)


@pytest.mark.parametrize('make', SMALL.values(), ids=SMALL)
def test_default_type(make):
    """A model that is built while the default is another type computes in that."""
    torch.set_default_dtype(torch.bfloat16)
    try:
        model = make()
        outs = model(torch.randn(1, 3, 64, 64))
        sum(out.square().mean() for out in outs).backward()
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(out.dtype == torch.bfloat16 and out.isfinite().all() for out in outs)
    assert all(p.dtype == torch.bfloat16 and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize('dtype', HALVES)
def test_optimizer_wrapper(model, dtype, monkeypatch):
    """mmengine's, which without a GPU refuses to be made, though what it does is not bound to one.

    A step of SGD at a rate of 1 is the gradient, unscaled: that of float64 to the accuracy of the type.
    """
    monkeypatch.setattr(amp_optimizer_wrapper, 'is_cuda_available', lambda: True)
    monkeypatch.setattr(amp_optimizer_wrapper, 'GradScaler', partial(torch.amp.GradScaler, 'cpu'))
    if dtype == torch.float16:
        monkeypatch.setattr(amp, 'autocast', partial(torch.autocast, 'cpu'))  # mmengine's takes bfloat16 alone on a CPU
    _, gradients = outputs_and_gradients(copy.deepcopy(model).double(), image().double())
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    wrapper = AmpOptimWrapper(dtype=dtype, loss_scale=4.0, optimizer=optimizer)
    before = {name: parameter.detach().double() for name, parameter in model.named_parameters()}
    with wrapper.optim_context(model):
        assert torch.is_autocast_enabled('cpu') and torch.get_autocast_dtype('cpu') == dtype
        value = loss(model(image()))
    wrapper.update_params(value)
    for name, parameter in model.named_parameters():
        assert parameter.dtype == torch.float32
        assert error(before[name] - parameter, gradients[name]) < 16 * torch.finfo(dtype).eps, name


def train_sharded(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group('gloo', init_method=f'file://{folder}/rendezvous', rank=rank, world_size=2)
    half = MixedPrecision(param_dtype=torch.bfloat16, reduce_dtype=torch.float32, buffer_dtype=torch.bfloat16)
    for make in (SMALL['VMamba, vanilla'], SMALL['Vim']):
        torch.manual_seed(0)
        model = make()
        exact = copy.deepcopy(model).double()
        sharded = FullyShardedDataParallel(
            model, mixed_precision=half, use_orig_params=True, device_id=torch.device('cpu')
        )
        outs = sharded(image())
        loss(outs).backward()
        exact_outs, exact_grads = outputs_and_gradients(exact, image().double())
        eps = torch.finfo(torch.bfloat16).eps
        assert max(map(error, outs, exact_outs)) < 4 * eps  # of the weights, too
        with FullyShardedDataParallel.summon_full_params(sharded, with_grads=True):
            for name, parameter in model.named_parameters():
                assert error(parameter.grad, exact_grads[name.replace('_fsdp_wrapped_module.', '')]) < 16 * eps, name
    dist.destroy_process_group()


def test_fully_sharded_in_bfloat16(tmp_path):
    spawn(train_sharded, (str(tmp_path),), nprocs=2)
