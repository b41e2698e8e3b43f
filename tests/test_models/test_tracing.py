"""torch.jit.trace, the FLOP counters that are built on it, and torch.fx."""

import importlib.util
import logging
import warnings
from pathlib import Path

import pytest
import torch
from mmengine.analysis import FlopAnalyzer
from torch import nn

from mmvmamba import Vim, VMamba
from mmvmamba.models.bimamba import BiMamba
from mmvmamba.models.ss2d import SS2D
from mmvmamba.ops import BIDIRECTIONAL, conv_silu_1d, conv_silu_2d, selective_scan, selective_scan_2d, use_backend

from ..test_ops.cases import scan_inputs

DIMS = dict(dims=8, depths=(1, 1, 1, 1))
FIRST_GENERATION = dict(
    d_state=3, ssm_ratio=2.0, mlp_ratio=0.0, gate=True, conv_bias=True, stem='patch', downsample='merging'
)
DEPTH = dict(embed_dims=16, depth=2)
MODELS = {
    'VMamba': lambda: VMamba(DIMS),
    'VMamba, first generation': lambda: VMamba(DIMS | FIRST_GENERATION),
    'VMamba, bidirectional': lambda: VMamba(DIMS, traversals=BIDIRECTIONAL),
    'Vim, maps': lambda: Vim(DEPTH, img_size=64, out_indices=(0, 1)),
    'Vim, overlapping patches': lambda: Vim(DEPTH, img_size=64, patch_stride=8),
    'Vim, rotary': lambda: Vim(DEPTH, img_size=64, rope_grid=4, feature='residual_official', out_indices=(0, 1)),
    'Vim, class token and rotary': lambda: Vim(DEPTH, img_size=64, rope_grid=4, pooling='middle'),
    'Vim, alternating blocks': lambda: Vim(DEPTH, img_size=64, bidirectionality='alternating_blocks'),
    **{f'Vim, {how}': lambda how=how: Vim(DEPTH, img_size=64, pooling=how) for how in ('head', 'double', 'mean')},
}
SIZES = (64, 64), (96, 80), (48, 64), (16, 16), (71, 65)


def trace(function, *inputs):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # each check of a shape is reported as a constant of the trace
        return torch.jit.trace(function, inputs, check_trace=False)


@pytest.mark.parametrize('traced_at', [64, 16], ids=['own size', 'one patch'])
@pytest.mark.parametrize('name', MODELS)
def test_a_traced_backbone_takes_images_of_any_size(name, traced_at):
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    with torch.no_grad():
        traced = trace(model, torch.randn(1, 3, traced_at, traced_at))
        for batch, size in enumerate(SIZES, 1):
            images = torch.randn(batch, 3, *size)
            for found, expected in zip(traced(images), model(images), strict=True):
                torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('name', ['VMamba', 'Vim, maps'])
def test_a_traced_backbone_has_gradients(name):
    model = MODELS[name]().eval()
    traced, images = trace(model, torch.randn(1, 3, 64, 64)), torch.randn(2, 3, 48, 80)
    found, expected = (
        torch.autograd.grad(sum(out.square().sum() for out in f(images)), list(model.parameters()))
        for f in (traced, model)
    )
    for a, b in zip(found, expected):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize('length', [1, 7])
@pytest.mark.parametrize('backend', ['auto', 'chunked', 'reference'])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_traced_operators_take_maps_of_any_size(backend, dtype, length):
    """Also with the backends that are loops in Python, of which a trace would keep the number of steps."""

    def operators(x, dt, A, B, C, D, dt_bias, dt_weight, weight, kernel, u, delta, b):
        y = selective_scan_2d(x, dt, A, B, C, D, dt_bias, dt_weight)
        z = conv_silu_1d(x.flatten(1, 2), kernel, None, (False, True))
        return y, conv_silu_2d(x, weight), z, *selective_scan(u, delta, A[0], b, b, return_last_state=True)

    def inputs(height, width):
        of_scan = scan_inputs(2, height, width, 5, 3, K=4, rank=2, dtype=dtype, seed=height)
        torch.manual_seed(width)
        others = (5, 1, 3, 3), (2, 5, 4), (2, 5, width), (2, 5, width), (2, 3, width)
        return *of_scan.values(), *(torch.rand(shape, dtype=dtype) for shape in others)

    with use_backend(backend):
        traced = trace(operators, *inputs(1, length))
        for size in ((1, 1), (1, 7), (5, 9), (12, 3)):
            tensors = [t.requires_grad_() for t in inputs(*size)]
            found, expected = traced(*tensors), operators(*tensors)
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
            for out, other in zip(found, expected):
                grads, others = (torch.autograd.grad(y.sum(), tensors, allow_unused=True) for y in (out, other))
                for grad, of_eager in zip(grads, others):
                    if of_eager is not None:
                        torch.testing.assert_close(grad, of_eager, rtol=1e-3, atol=1e-4)


@pytest.fixture(scope='module')
def tool():
    path = Path(__file__).parents[2] / 'tools/analysis_tools/get_flops.py'
    spec = importlib.util.spec_from_file_location('get_flops', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Classifier(nn.Module):
    """Calls its backbone as our tool does."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone

    def forward(self, image, mode='tensor'):
        return self.backbone(image)


@pytest.mark.parametrize('backend', ['auto', 'chunked', 'reference'])
@pytest.mark.parametrize('name', MODELS)
def test_every_counter_finds_the_same_flops(name, backend, tool, monkeypatch):
    """MMEngine's, on which the get_flops.py of mmdet, mmseg and mmpretrain are built, and ours; scans among them."""
    monkeypatch.setattr(logging.getLogger('mmengine'), 'disabled', True)
    model = Classifier(MODELS[name]()).eval()
    with use_backend(backend):
        analyzer = FlopAnalyzer(model, torch.randn(1, 3, 64, 96))
        by_mmengine, total = analyzer.by_operator(), analyzer.total()
        by_ours = tool.count_flops(model.to('meta'), (64, 96))
    assert total == by_ours.total()
    assert by_mmengine['selective_scan_2d'] > 0
    if name.startswith('VMamba'):  # MMEngine calls each layer, so Vim's dt is projected before the scan
        assert by_mmengine['selective_scan_2d'] == by_ours['selective_scan_2d']


class Tracer(torch.fx.Tracer):
    def is_leaf_module(self, module, name):
        return isinstance(module, (VMamba, Vim)) or super().is_leaf_module(module, name)


@pytest.mark.parametrize('name', MODELS)
def test_fx_takes_a_backbone_as_a_leaf_module(name):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 3, 1), MODELS[name]()).eval()
    traced, images = torch.fx.GraphModule(model, Tracer().trace(model)), torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert all(map(torch.equal, traced(images), model(images)))


def test_features_of_torchvision_with_a_backbone_as_a_leaf():
    extraction = pytest.importorskip('torchvision.models.feature_extraction')
    model = nn.Sequential(nn.Conv2d(3, 3, 1), VMamba(DIMS)).eval()
    extract = extraction.create_feature_extractor(model, ['1'], tracer_kwargs=dict(leaf_modules=[VMamba]))
    images = torch.randn(1, 3, 64, 64)
    assert all(map(torch.equal, extract(images)['1'], model(images)))


class Calls(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


UNTRACEABLE = {
    'this backbone': lambda: VMamba(DIMS),
    'SS2D': lambda: SS2D(4),
    'BiMamba': lambda: BiMamba(16),
    'VSSBlock': lambda: VMamba(DIMS).layers[0].blocks[0],
    'the scan': lambda: Calls(lambda x: selective_scan_2d(x, x, x, x, x)),
    'the convolution': lambda: Calls(lambda x: conv_silu_2d(x, x)),
}


@pytest.mark.parametrize('what', UNTRACEABLE)
def test_fx_is_refused_with_the_way_out(what):
    with pytest.raises(ValueError, match=f'torch.fx cannot trace through {what}: make it, or .* a leaf module'):
        torch.fx.symbolic_trace(UNTRACEABLE[what]())


SCRIPTED = {
    'VMamba': lambda: VMamba(DIMS),
    'Vim': lambda: Vim(DEPTH),
    'SS2D': lambda: nn.Sequential(SS2D(4)),
    'BiMamba': lambda: BiMamba(16),
}


@pytest.mark.parametrize('what', SCRIPTED)
def test_torch_jit_script_is_rejected(what):
    """Also if the module is a part of another model."""
    for model in (SCRIPTED[what](), nn.ModuleDict(dict(backbone=SCRIPTED[what]()))):
        with pytest.raises(NotImplementedError, match=f'not support {what}: use torch.jit.trace or torch.export inst'):
            torch.jit.script(model)
