"""Forward-mode derivatives, by torch.func.jvp and by dual tensors, against the gradients of the backward pass."""

import pytest
import torch
from torch.autograd import forward_ad

from mmvmamba import Vim, VMamba
from mmvmamba.ops import conv_silu_1d, conv_silu_2d, selective_scan, selective_scan_2d, use_backend

from .cases import scan_inputs

SCAN = scan_inputs(2, 3, 4, 5, 2, K=4, rank=2)


def scan(*tensors):
    return selective_scan_2d(**dict(zip(SCAN, tensors)))


OPERATORS = {
    'scan': (scan, [t.shape for t in SCAN.values()]),
    'scan of sequences': (lambda u, dt, A, B, C: selective_scan(u, dt, -A.exp(), B, C), [(2, 5, 7)] * 2 + [(5, 2)] * 3),
    'convolution of a map': (conv_silu_2d, [(2, 3, 4, 5), (5, 1, 3, 3), (5,)]),
    'convolutions of a sequence': (lambda *t: conv_silu_1d(*t, (False, True)), [(2, 7, 5), (2, 5, 4), (2, 5)]),
}


def by_jvp(function, inputs, tangents):
    return torch.func.jvp(function, tuple(inputs), tuple(tangents))[1]


def by_dual_tensors(function, inputs, tangents):
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(function(*map(forward_ad.make_dual, inputs, tangents))).tangent


def by_dual_tensors_without_grad(function, inputs, tangents):
    with torch.no_grad():
        return by_dual_tensors(function, inputs, tangents)


def by_two_backward_passes(function, inputs, tangents):
    return torch.autograd.functional.jvp(function, tuple(inputs), tuple(tangents))[1]


WAYS = [by_jvp, by_dual_tensors, by_dual_tensors_without_grad]


def random(shapes, dtype, seed):
    torch.manual_seed(seed)
    return [torch.randn(shape, dtype=torch.float64).to(dtype) for shape in shapes]


@pytest.mark.parametrize('way', WAYS)
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('backend', ['auto', 'chunked', 'reference'])
@pytest.mark.parametrize('operator', OPERATORS)
def test_operators(operator, backend, dtype, way):
    function, shapes = OPERATORS[operator]
    inputs, tangents = random(shapes, dtype, 0), random(shapes, dtype, 1)
    if operator == 'scan':
        inputs = [t.to(dtype) for t in SCAN.values()]
    with use_backend('chunked'):
        expected = by_two_backward_passes(function, [t.double() for t in inputs], [t.double() for t in tangents])
    with use_backend(backend):
        found = way(function, inputs, tangents)
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item())


DEPTH = dict(embed_dims=16, depth=2)
MODELS = {
    'VMamba': lambda **options: VMamba(dict(dims=8, depths=(1, 1, 1, 1)), drop_path_rate=0.0, **options),
    'Vim': lambda **options: Vim(DEPTH, img_size=64, rope_grid=4, pooling='middle', **options),
}


@pytest.mark.parametrize('with_cp', [False, True])
@pytest.mark.parametrize('way', WAYS)
@pytest.mark.parametrize('name', MODELS)
def test_backbones(name, way, with_cp):
    """With the functions that recompute in the backward pass, the fast layers of a CPU, and block-wise checkpoints."""
    torch.manual_seed(0)
    model = MODELS[name](with_cp=with_cp)
    inputs, tangents = (random([(2, 3, 64, 96)], torch.float32, seed) for seed in range(2))
    found = way(lambda images: model(images)[-1], inputs, tangents)
    step = 1e-5
    model, (x,), (v,) = model.double(), *([t.double() for t in ts] for ts in (inputs, tangents))
    with torch.no_grad():
        expected = (model(x + step * v)[-1] - model(x - step * v)[-1]) / (2 * step)
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item())


@pytest.mark.parametrize('name', MODELS)
def test_other_transforms_of_a_backbone_with_checkpoints(name):
    torch.manual_seed(0)
    model, images = MODELS[name](with_cp=True), torch.randn(2, 3, 64, 64)
    expected = torch.autograd.grad(model(images.requires_grad_())[-1].square().sum(), images)[0]
    found = torch.func.grad(lambda x: model(x)[-1].square().sum())(images)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize('way', WAYS)
def test_a_kernel_by_name_refuses(way):
    inputs = list(SCAN.values())
    with (
        use_backend('native'),
        pytest.raises(ValueError, match="'native' does not support the transforms of torch.func or forward-mode"),
    ):
        way(scan, [t.float() for t in inputs], [t.float() for t in inputs])


@pytest.mark.parametrize('way', WAYS)
@pytest.mark.parametrize('program', ['exported', 'traced'])
@pytest.mark.parametrize('operator', ['scan', 'convolution of a map'])
def test_a_program_refuses(operator, program, way):
    """It calls the operators themselves, for which PyTorch would return no tangent, or zeros."""
    function, shapes = OPERATORS[operator]
    inputs = tuple(random(shapes, torch.float32, 0))

    class Module(torch.nn.Module):
        def forward(self, *tensors):
            return function(*tensors)

    if program == 'exported':
        run = torch.export.export(Module(), inputs).module()
    else:
        run = torch.jit.trace(function, inputs, check_trace=False)
    with pytest.raises(RuntimeError, match='has no forward-mode derivative in a traced or exported program'):
        way(run, inputs, inputs)
