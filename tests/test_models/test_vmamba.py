"""Tests VMamba against tensors of the official implementation, published counts, and the contract of a backbone."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from mmvmamba import VMamba
from mmvmamba.checkpoint import CheckpointError
from mmvmamba.models.ss2d import SS2D
from mmvmamba.models.vmamba import ARCHS

GOLDEN = Path(__file__).parents[1] / 'golden'
KEYS = json.loads((GOLDEN / 'keys_vmamba.json').read_text())
GENERATIONS = dict(
    vmamba_s1=dict(dims=12, depths=(1, 1, 2, 1), ssm_ratio=1.0),
    vmamba_s2=dict(dims=12, depths=(1, 1, 2, 1), ssm_ratio=2.0),
    vanilla=ARCHS['vanilla_tiny'] | dict(dims=12, depths=(1, 1, 2, 1)),
)
TINY = dict(dims=8, depths=(1, 1, 1, 1), ssm_ratio=1.0)


def load(name):
    return {key: torch.from_numpy(value) for key, value in np.load(GOLDEN / f'{name}.npz').items()}


def golden_model(name, data):
    model = VMamba(GENERATIONS[name], drop_path_rate=0.0)
    model.load_state_dict({key[6:]: value for key, value in data.items() if key.startswith('state/')})
    return model


def relative_error(a, b):
    return ((a - b).abs().max() / b.abs().max()).item()


@pytest.mark.parametrize('name', GENERATIONS)
def test_outputs_and_gradients_match_the_official_code(name):
    data = load(name)
    model = golden_model(name, data)
    x = data['x'].requires_grad_()
    outs = model(x)
    for i, out in enumerate(outs):
        torch.testing.assert_close(out, data[f'out{i}'], atol=1e-5, rtol=1e-5)
    (sum((out * data[f'w{i}']).sum() for i, out in enumerate(outs)) / 1000).backward()
    grads = {name: parameter.grad for name, parameter in model.named_parameters()} | {'x': x.grad}
    expected = {key[5:]: value for key, value in data.items() if key.startswith('grad/')}
    assert grads.keys() == expected.keys()
    for key, grad in grads.items():
        assert relative_error(grad, expected[key]) < 1e-4, key


@pytest.mark.parametrize('name', GENERATIONS)
def test_odd_map_sizes_match_the_official_code(name):
    model = golden_model(name, load(name))
    data = load(f'{name}_odd')
    x = data['x'].requires_grad_()
    outs = model(x)
    for i, out in enumerate(outs):
        torch.testing.assert_close(out, data[f'out{i}'], atol=1e-5, rtol=1e-5)
    (sum((out * data[f'w{i}']).sum() for i, out in enumerate(outs)) / 1000).backward()
    assert relative_error(x.grad, data['grad/x']) < 1e-4


@pytest.mark.parametrize('suffix', ['', '_odd'])
@pytest.mark.parametrize('name', GENERATIONS)
def test_logits_match_the_official_code(name, suffix):
    """The classifier is a norm (classifier.norm, loaded as outnorm3), a mean and a linear head on the last stage."""
    data = load(name)
    state = {key[6:]: value for key, value in data.items() if key.startswith('state/')}
    model = VMamba(GENERATIONS[name], drop_path_rate=0.0, out_indices=(3,))
    body = {key: value for key, value in state.items() if not key.startswith(('outnorm', 'classifier.'))}
    norm = {f'outnorm3.{key}': state[f'classifier.norm.{key}'] for key in ('weight', 'bias')}
    model.load_state_dict(body | norm)
    x = load(name + suffix)
    pooled = model(x['x'])[0].mean((2, 3))
    logits = pooled @ state['classifier.head.weight'].T + state['classifier.head.bias']
    torch.testing.assert_close(logits, x['logits'], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize('name', KEYS)
def test_keys_shapes_and_counts_match_the_released_variants(name):
    with torch.device('meta'):
        model = VMamba(name)
    shapes = {key: list(value.shape) for key, value in model.state_dict().items()}
    assert shapes == KEYS[name]['backbone']
    assert sum(p.numel() for p in model.parameters()) == KEYS[name]['params']['backbone']
    classifier = {key: shape for key, shape in shapes.items() if not key.startswith('outnorm')}
    width = shapes['outnorm3.weight'][0]
    classifier |= {
        'classifier.norm.weight': [width],
        'classifier.norm.bias': [width],
        'classifier.head.weight': [1000, width],
        'classifier.head.bias': [1000],
    }
    assert classifier == KEYS[name]['classifier']
    assert sum(np.prod(shape) for shape in classifier.values()) == KEYS[name]['params']['classifier']


def test_initialisation_matches_the_paper():
    torch.manual_seed(0)
    op = VMamba(dict(dims=32, depths=(1, 1, 1, 1), d_state=4)).layers[2].blocks[0].op
    dt = torch.nn.functional.softplus(op.dt_projs_bias)
    assert 1e-3 * 0.99 < dt.min() < 2e-3 and 5e-2 < dt.max() < 0.1 * 1.01
    torch.testing.assert_close(torch.exp(op.A_logs[7]), torch.tensor([1.0, 2.0, 3.0, 4.0]))
    assert (op.Ds == 1).all()
    assert abs(op.in_proj.weight.std().item() - 0.02) < 2e-3
    assert op.dt_projs_weight.abs().max() <= op.dt_projs_weight.shape[2] ** -0.5
    assert op.x_proj_weight.abs().max() <= op.x_proj_weight.shape[2] ** -0.5


@pytest.mark.parametrize('size', [(32, 32), (37, 65), (4, 50)])
@pytest.mark.parametrize('arch', [TINY, TINY | dict(stem='patch', downsample='merging', mlp_ratio=0.0, gate=True)])
def test_any_size_channels_and_stages_are_supported(arch, size):
    model = VMamba(arch, in_channels=5, out_indices=(1, 3))
    outs = model(torch.randn(2, 5, *size))
    assert [out.shape[1] for out in outs] == [16, 64]
    assert all(out.is_contiguous() for out in outs)
    if arch is TINY:
        assert outs[0].shape[2:] == tuple(-(-side // 8) for side in size)


def test_float64_is_not_rounded_to_float32():
    """A change of A_logs too small for float32 changes the output by the amount that the gradient predicts."""
    torch.manual_seed(0)
    mixer, x = SS2D(8).double(), torch.randn(1, 5, 6, 8, dtype=torch.float64)
    before = (mixer(x) * x).sum()
    (slope,) = torch.autograd.grad(before, mixer.A_logs)
    with torch.no_grad():
        mixer.A_logs += 2e-8
        assert ((mixer(x) * x).sum() - before).item() == pytest.approx(2e-8 * slope.sum().item(), rel=1e-3, abs=0)


def test_drop_path_increases_linearly_and_acts_in_training_only():
    model = VMamba(dict(dims=8, depths=(1, 2, 1, 1)), drop_path_rate=0.4)
    rates = [block.drop_path.p for stage in model.layers for block in stage.blocks]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    x = torch.randn(4, 3, 32, 32)
    model.eval()
    assert torch.equal(model(x)[3], model(x)[3])
    model.train()
    assert not torch.equal(model(x)[3], model(x)[3])


@pytest.mark.parametrize('traversals', ['cross', 'unidirectional', 'bidirectional', ('row', 'column_reversed')])
def test_traversals_determine_the_receptive_field(traversals):
    """A later row may affect an earlier one only if a traversal runs backwards or along columns."""
    torch.manual_seed(0)
    model = VMamba(TINY | dict(depths=(1, 1, 1, 1)), traversals=traversals, out_indices=(0,)).eval()
    x = torch.randn(1, 3, 64, 64, requires_grad=True)
    model(x)[0][0, :, 2].sin().sum().backward()  # through the convolutions, row 2 of stride 4 depends on rows up to 15
    assert (x.grad[:, :, 40:].abs().max() > 0) == (traversals != 'unidirectional')


@pytest.mark.parametrize(
    'kwargs, message',
    [
        (dict(arch='huge'), "Unknown arch 'huge'.*base_s1l20"),
        (dict(arch=dict(dims=[8, 16], depths=(1, 1, 1, 1))), r'dims=\[8, 16\] must have 4'),
        (dict(arch=dict(dims=8, depths=(1, 1))), r'depths=\(1, 1\) must have 4'),
        (dict(arch=dict(dims=8)), 'arch lacks depths'),
        (dict(arch=TINY | dict(embed_dim=3)), 'Unknown field of arch: embed_dim'),
        (dict(arch=TINY | dict(stem='vit')), "stem='vit' must be one of"),
        (dict(arch=TINY | dict(dims=None)), 'dims=None must have 4'),
        (dict(arch=TINY | dict(dims=1)), 'dims=1 must be an integer, at least 2'),
        (dict(arch=TINY | dict(ssm_ratio='2')), "ssm_ratio='2' must be a number"),
        (dict(arch=TINY | dict(ssm_ratio=float('nan'))), 'ssm_ratio=nan must be a number'),
        (dict(arch=TINY | dict(mlp_ratio=0.1)), 'mlp_ratio=0.1 .* at least one inner channel, or 0 for none'),
        (dict(arch=TINY | dict(gate='none')), "gate='none' must be True or False"),
        (dict(traversals=4), 'Unknown traversals 4'),
        (dict(out_indices=(0, 4)), 'out_indices'),
        (dict(frozen_stages=5), 'frozen_stages=5'),
        (dict(traversals='zigzag'), "Unknown traversals 'zigzag'"),
        (dict(traversals=('row', 'diagonal')), 'diagonal'),
    ],
)
def test_invalid_arguments_are_rejected_by_name(kwargs, message):
    with pytest.raises(ValueError, match=message):
        VMamba(**kwargs)


class TestLoading:
    """Mismatching weights are rejected, however they are loaded."""

    model = VMamba(TINY)
    state = model.state_dict()

    def test_older_keys_of_the_same_tensors_load(self):
        arch = TINY | dict(stem='patch', downsample='merging', mlp_ratio=0.0, gate=True, conv_bias=True)
        state = VMamba(arch).state_dict()
        older = {}
        for key, value in state.items():
            for new, old in (
                ('patch_embed.0', 'patch_embed.proj'),
                ('patch_embed.2', 'patch_embed.norm'),
                ('downsample.norm', 'downsample.1'),
                ('downsample.reduction', 'downsample.2'),
                ('op.x_proj_weight', 'op.x_proj.weight'),
                ('op.dt_projs_weight', 'op.dt_projs.weight'),
                ('.op.', '.self_attention.'),
            ):
                key = key.replace(new, old)
            if 'blocks' in key:
                key = key.replace('.norm.', '.ln_1.')
            if 'x_proj.' in key or 'dt_projs.' in key:
                value = value.flatten(0, 1)
            if 'in_proj' in key or 'out_proj' in key:
                value = value[..., None, None]
            older[key] = value
        assert not [key for key in older if key in state and not key.startswith('outnorm')]
        fresh = VMamba(arch)
        fresh.load_state_dict(older)
        assert all(torch.equal(a, b) for a, b in zip(fresh.state_dict().values(), state.values()))

    def test_model_with_fewer_outputs_than_the_file_loads(self):
        """Unused blocks are not built: they would get no gradient, which stops DDP."""
        model = VMamba(TINY, out_indices=(1, 0))
        model.load_state_dict(self.state)
        own = model.state_dict()
        assert not [name for name in own if name.startswith(('layers.1.downsample', 'layers.2'))]
        assert all(torch.equal(tensor, self.state[name]) for name, tensor in own.items())
        maps = model(torch.randn(1, 3, 32, 32))
        assert [out.shape[1] for out in maps] == [8, 16]
        sum(out.square().mean() for out in maps).backward()
        assert all(parameter.grad is not None for parameter in model.parameters())

    def test_classifier_is_skipped_and_output_norms_are_kept(self):
        state = {k: v for k, v in self.state.items() if not k.startswith('outnorm')}
        state |= {'classifier.head.weight': torch.zeros(10, 64), 'classifier.norm.weight': torch.full((64,), 7.0)}
        model = VMamba(TINY)
        model.load_state_dict(state)
        assert (model.outnorm3.weight == 1).all()
        assert torch.equal(model.layers[0].blocks[0].op.A_logs, self.state['layers.0.blocks.0.op.A_logs'])

    @pytest.mark.parametrize('strict', [True, False])
    @pytest.mark.parametrize(
        'change, message',
        [
            (lambda s: s.pop('layers.0.blocks.0.norm.weight'), 'missing keys: layers.0.blocks.0.norm.weight'),
            (lambda s: s.pop('outnorm1.bias'), 'missing keys: outnorm1.bias'),
            (lambda s: s.update(extra=torch.ones(1)), 'unexpected keys: extra'),
            (
                lambda s: s.update({'outnorm0.bias': torch.ones(9)}),
                r'mismatched tensors: outnorm0.bias has shape \(9,\) instead of \(8,\)',
            ),
            (lambda s: s.clear(), 'missing keys: patch_embed.0.weight'),
        ],
    )
    def test_mismatching_weights_are_rejected_even_when_not_strict(self, change, message, strict):
        state = dict(self.state)
        change(state)
        model = VMamba(TINY)
        before = {k: v.clone() for k, v in model.state_dict().items()}
        with pytest.raises(CheckpointError, match=message):
            model.load_state_dict(state, strict=strict)
        assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_compile_and_export_have_one_operator_per_block():
    torch.manual_seed(0)
    model, x = VMamba(TINY, drop_path_rate=0.0).eval(), torch.randn(1, 3, 37, 50)
    expected = model(x)
    compiled = torch.compile(model, fullgraph=True, backend='aot_eager')
    for out, eager in zip(compiled(x), expected):
        torch.testing.assert_close(out, eager)
    sum(out.sin().sum() for out in compiled(x)).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())

    program = torch.export.export(model, (x,))
    scans = [node for node in program.graph.nodes if node.target is torch.ops.mmvmamba.selective_scan_2d.default]
    assert len(scans) == 4
    for out, eager in zip(program.module()(x), expected):
        torch.testing.assert_close(out, eager)
