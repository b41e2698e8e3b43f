"""Tests that one program of torch.compile or torch.export handles images of several sizes."""

import pytest
import torch
from torch.export import Dim

from mmvmamba import Vim, VMamba

pytestmark = pytest.mark.skipif(torch.__version__ < '2.5', reason='PyTorch 2.4 makes the sizes static')

PYRAMID = dict(dims=8, depths=(1, 1, 1, 1))
VANILLA = PYRAMID | dict(gate=True, d_state=2, stem='patch', downsample='merging', mlp_ratio=0.0)
PLAIN = dict(embed_dims=16, depth=1, d_state=4)
MODELS = {
    'vmamba': lambda: VMamba(PYRAMID, out_indices=(0, 1)),
    'vanilla vmamba': lambda: VMamba(VANILLA, out_indices=(0, 1)),
    'vim': lambda: Vim(PLAIN, img_size=64),
    'vim with a class token': lambda: Vim(PLAIN, img_size=64, pooling='middle'),
    'vim with rotary positions': lambda: Vim(PLAIN, img_size=64, patch_stride=8, rope_grid=4, bidirectionality='ssm'),
}
SIZES = ((2, 96, 80), (3, 64, 64), (4, 73, 117))  # a batch of one is compiled separately


@pytest.fixture(params=MODELS)
def model(request):
    torch.manual_seed(0)
    torch._dynamo.reset()
    return MODELS[request.param]()


def image(batch, height, width):
    return torch.randn(batch, 3, height, width)


def outputs_and_grads(function, model, x):
    model.zero_grad()
    torch.manual_seed(1)  # for the drop path
    outs = function(x)
    sum(out.square().mean() for out in outs).backward()
    return outs, [parameter.grad for parameter in model.parameters()]


def check(model, compiled, training):
    for size in SIZES:
        x = image(*size)
        if training:
            found, expected = (outputs_and_grads(f, model, x) for f in (compiled, model))
        else:
            with torch.no_grad():
                found, expected = compiled(x), model(x)
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)


def test_exported_program_handles_several_sizes(model):
    shapes = {0: Dim('batch', max=64), 2: Dim('height', min=64, max=4096), 3: Dim('width', min=64, max=4096)}
    program = torch.export.export(model.eval(), (image(*SIZES[0]),), dynamic_shapes=(shapes,)).module()
    with torch.no_grad():
        for size in SIZES:
            x = image(*size)
            torch.testing.assert_close(program(x), model(x), atol=1e-5, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize('training', [True, False])
def test_compile_creates_one_dynamic_program(model, training):
    compiled = torch.compile(model.train(training), fullgraph=True, dynamic=True, backend='aot_eager')
    with torch._dynamo.config.patch(error_on_recompile=True):
        check(model, compiled, training)


@pytest.mark.slow
@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('name', ['vmamba', 'vim'])
def test_inductor_handles_several_sizes(name, training):
    """In training, Inductor's layout optimization is disabled: on a CPU it compares symbolic strides and fails."""
    torch._dynamo.reset()
    model, options = MODELS[name]().train(training), dict(layout_optimization=False) if training else {}
    check(model, torch.compile(model, fullgraph=True, options=options), training)
