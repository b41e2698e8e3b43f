"""Tests that every precision, in each way of selecting it, is correct to the accuracy of its dtype."""

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
from torch.utils._python_dispatch import TorchDispatchMode

from mmvmamba import Vim, VMamba
from mmvmamba.memory import use_cpu_fast_path
from mmvmamba.models.downsampling import ConvDownsample
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
    """Scaled, as in float16 training, so that small gradients do not underflow."""
    generator = torch.Generator().manual_seed(2)
    weights = [torch.randn(out.shape, generator=generator, dtype=torch.float64) + 0.5 for out in outs]
    return 16 * sum((out.double() * weight).sum() for out, weight in zip(outs, weights))


def error(a, b):
    """Relative error, averaged over the tensor."""
    return ((a.double() - b.double()).norm() / b.double().norm().clamp(min=1e-30)).item()


@pytest.mark.parametrize('dtype', [*HALVES, torch.float32])
def test_model_in_one_dtype_matches_float64(model, dtype):
    """The float64 reference uses the same rounded weights and images."""
    model, x = model.to(dtype), image(dtype)
    exact = copy.deepcopy(model).double()
    outs, grads = outputs_and_gradients(model, x)
    exact_outs, exact_grads = outputs_and_gradients(exact, x.double())
    with torch.inference_mode():
        inferred = model(x)
    assert {t.dtype for t in (*outs, *inferred, *grads.values())} == {dtype}
    check(outs, inferred, grads, exact_outs, exact_grads, dtype)


def check(outs, inferred, grads, exact_outs, exact_grads, dtype):
    """16-bit dtypes only round the results of operations; with float32, operations also compute in float32."""
    eps = torch.finfo(dtype).eps * (1 if dtype in HALVES else 4)
    assert max(map(error, outs, exact_outs)) < 2 * eps
    assert max(map(error, inferred, exact_outs)) < 2 * eps
    for name, grad in grads.items():
        assert error(grad, exact_grads[name]) < 16 * eps, name


@pytest.mark.parametrize('dtype', [*HALVES, torch.float32])
@pytest.mark.parametrize('values', [(0.0,), (6e-8,), (65504.0,), (65504.0, -65504.0)])
def test_images_with_extreme_float16_values_give_finite_results(model, dtype, values):
    """The result may be non-finite only if the output of the first convolution exceeds the range of the dtype."""
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


def test_float64_results_have_float64_accuracy(model):
    """Some digits of a float64 gradient do not fit into float32. Inference and training results are the same."""
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
def test_autocast_has_16_bit_accuracy(model, dtype):
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
def test_model_uses_the_default_dtype(make):
    """A model built while another default dtype is set computes in that dtype."""
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
def test_amp_optim_wrapper_steps_with_the_exact_gradient(model, dtype, monkeypatch):
    """Runs mmengine's AmpOptimWrapper on a CPU, although its constructor requires a GPU.

    A step of SGD with learning rate 1 subtracts the unscaled gradient, which must match float64 to the accuracy of the
    dtype.
    """
    monkeypatch.setattr(amp_optimizer_wrapper, 'is_cuda_available', lambda: True)
    monkeypatch.setattr(amp_optimizer_wrapper, 'GradScaler', partial(torch.amp.GradScaler, 'cpu'))
    if dtype == torch.float16:
        monkeypatch.setattr(amp, 'autocast', partial(torch.autocast, 'cpu'))  # mmengine accepts only bfloat16 on a CPU
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
        assert max(map(error, outs, exact_outs)) < 4 * eps  # includes the rounding of the weights
        with FullyShardedDataParallel.summon_full_params(sharded, with_grads=True):
            for name, parameter in model.named_parameters():
                assert error(parameter.grad, exact_grads[name.replace('_fsdp_wrapped_module.', '')]) < 16 * eps, name
    dist.destroy_process_group()


def test_fsdp_in_bfloat16_matches_float64(tmp_path):
    spawn(train_sharded, (str(tmp_path),), nprocs=2)


class Recorded(TorchDispatchMode):
    """Records the tensors that an operator receives."""

    def __init__(self, operator):
        super().__init__()
        self.operator, self.calls = operator, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func == self.operator:
            self.calls.append([arg for arg in args if isinstance(arg, torch.Tensor)])
        return func(*args, **(kwargs or {}))


def test_bfloat16_inference_converts_the_projections_of_a_scan_at_once(model):
    """The scan reads dt, B and C in float32. Converting each of these strided views takes longer."""
    with torch.no_grad(), Recorded(torch.ops.mmvmamba.selective_scan_2d.default) as recorded:
        inferred = model.bfloat16()(image(torch.bfloat16))
    assert recorded.calls
    for x, dt, _, B, C, *_ in recorded.calls:
        assert x.dtype == torch.bfloat16 and {t.dtype for t in (dt, B, C)} == {torch.float32}
        assert dt.untyped_storage().data_ptr() == B.untyped_storage().data_ptr() == C.untyped_storage().data_ptr()
    with use_cpu_fast_path(False), torch.no_grad():
        separately = model(image(torch.bfloat16))
    assert max(map(error, inferred, separately)) < torch.finfo(torch.bfloat16).eps


@pytest.mark.parametrize(('size', 'is_small'), [(6, True), (64, False)])
def test_bfloat16_inference_converts_the_smaller_of_map_and_weight(size, is_small):
    """For a channels-last map, PyTorch would convert the weight of the convolution."""
    downsample = ConvDownsample(16, 32).bfloat16()
    x = torch.randn(1, size, size, 16, dtype=torch.bfloat16)
    with torch.no_grad(), Recorded(torch.ops.aten.convolution.default) as recorded:
        y = downsample(x)
    assert recorded.calls[0][0].is_contiguous() == is_small
    torch.testing.assert_close(y, downsample(x), atol=0.05, rtol=0.05)
