"""Tests the behaviour that configs rely on, for every family; new families are found in the registry."""

import inspect
import os

import pytest
import torch
from mmengine.model import PretrainedInit
from mmengine.registry import MODELS
from torch import nn

from mmvmamba.checkpoint import CheckpointError
from mmvmamba.models import Vim, VMamba
from mmvmamba.models.backbone import FAMILIES
from tests.test_checkpoint.attacks import Calls
from tests.toy_family import RowMamba

# A small model of each family, with at least two outputs if it has several.
SMALL = {
    VMamba: dict(arch=dict(dims=8, depths=(1, 2, 1, 1), ssm_ratio=1.0)),
    Vim: dict(arch=dict(embed_dims=16, depth=3, d_state=4), out_indices=(0, 2)),
    RowMamba: dict(arch='tiny', out_indices=(0, 1)),
}
NORMAL = dict(type='Normal', layer='Linear', std=0.02)
WEIGHTS = dict(type='Pretrained', checkpoint='a.pth', name='patch_embed')
FAMILIES = list(FAMILIES.values())


@pytest.fixture(params=FAMILIES, ids=lambda family: family.__name__)
def family(request):
    return request.param


def build(family, **arguments):
    torch.manual_seed(0)
    return family(**SMALL[family] | arguments)


def loss(model, x):
    return sum(out.sin().mean() for out in model(x))


def image(*size, channels=3):
    torch.manual_seed(1)
    return torch.randn(2, channels, *size)


def test_every_family_is_tested():
    assert set(SMALL) == set(FAMILIES)


def test_families_share_the_arguments_of_configs(family):
    parameters = inspect.signature(family).parameters.values()
    shared = {
        'arch',
        'in_channels',
        'out_indices',
        'drop_path_rate',
        'frozen_stages',
        'with_cp',
        'init_cfg',
        'pretrained',
    }
    assert shared <= {parameter.name for parameter in parameters}
    assert not [
        parameter for parameter in parameters if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    assert type(MODELS.build(dict(type=family.__name__, **SMALL[family]))) is family
    with pytest.raises(TypeError, match='no_such_argument'):
        MODELS.build(dict(type=family.__name__, no_such_argument=1))


@pytest.mark.parametrize('size', [(32, 32), (37, 65), (16, 50)])
@pytest.mark.parametrize('channels', [1, 4])
def test_maps_support_any_size_and_channel_count(family, size, channels):
    model = build(family, in_channels=channels)
    outs = model(image(*size, channels=channels))
    assert len(outs) == len(model.out_indices)
    assert all(out.shape[0] == 2 and out.dim() == 4 and out.is_contiguous() for out in outs)


@pytest.mark.parametrize(
    'x, message',
    [
        (torch.randn(1, 4, 64, 64), r'The input is \(1, 4, 64, 64\): it must be \(B, 3, H, W\)'),
        (torch.randn(3, 64, 64), r'The input is \(3, 64, 64\): it must be \(B, 3, H, W\)'),
        (torch.zeros(1, 3, 64, 64, dtype=torch.uint8), 'The images are torch.uint8: they must be floating-point'),
    ],
)
def test_invalid_inputs_are_rejected(family, x, message):
    with pytest.raises(ValueError, match=message):
        build(family)(x)


@pytest.mark.parametrize(
    'arguments, message',
    [
        (dict(arch='huge'), "Unknown arch 'huge': choose from"),
        (dict(arch=7), 'arch=7 must be one of'),
        (dict(out_indices=3), 'out_indices=3 must be a tuple'),
        (dict(out_indices=()), r'out_indices=\(\) must name'),
        (dict(out_indices=(99,)), r'out_indices=\(99,\) must name'),
        (dict(init_cfg='file.pth'), r"init_cfg=dict\(type='Pretrained', checkpoint='file.pth'\)"),
        (dict(pretrained='a.pth', init_cfg=dict(type='Pretrained', checkpoint='b.pth')), 'both name weights'),
    ],
)
def test_invalid_arguments_are_rejected(family, arguments, message):
    with pytest.raises(ValueError, match=message):
        build(family, **arguments)


SPELLINGS = {
    'dict': lambda path: dict(init_cfg=dict(type='Pretrained', checkpoint=path)),
    'list': lambda path: dict(init_cfg=[dict(type='Pretrained', checkpoint=path)]),
    'class': lambda path: dict(init_cfg=dict(type=PretrainedInit, checkpoint=path)),
    'full name': lambda path: dict(init_cfg=dict(type='mmengine.model.PretrainedInit', checkpoint=path)),
    'pretrained': lambda path: dict(pretrained=path),
}


@pytest.mark.parametrize('spelling', SPELLINGS)
def test_code_in_a_checkpoint_is_not_executed(family, spelling, tmp_path):
    file, trace = tmp_path / 'file.pth', tmp_path / 'trace'
    torch.save({'state_dict': build(family).state_dict(), 'x': Calls(os.mkdir, str(trace))}, file)
    with pytest.raises(CheckpointError, match='was rejected without executing it'):
        build(family, **SPELLINGS[spelling](str(file))).init_weights()
    assert not trace.exists()


@pytest.mark.parametrize('spelling', SPELLINGS)
def test_weights_load_completely_or_not_at_all(family, spelling, tmp_path):
    source = build(family)
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.add_(1)
    path = str(tmp_path / 'file.pth')
    torch.save({'state_dict': source.state_dict()}, path)
    model = build(family, **SPELLINGS[spelling](path))
    model.init_weights()
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), source.state_dict().values()))

    lacking = dict(list(source.state_dict().items())[:-1])
    for loads in (
        lambda: model.load_state_dict(lacking, strict=False),
        lambda: model.load_state_dict({'x': lacking.popitem()[1]}),
    ):
        with pytest.raises(RuntimeError, match='does not fit'):
            loads()


def test_constructor_loads_pretrained_at_once_or_raises(family, tmp_path):
    source = build(family)
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.add_(1)
    path = str(tmp_path / 'file.pth')
    torch.save(source.state_dict(), path)
    model = build(family, pretrained=path, frozen_stages=1)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), source.state_dict().values()))
    assert not next(model.patch_embed.parameters()).requires_grad
    with torch.no_grad():
        next(model.parameters()).zero_()
    model.init_weights()  # MMEngine calls it before a training; the weights are not read a second time
    assert not next(model.parameters()).any()

    with pytest.raises(CheckpointError, match='none.pth does not exist'):
        build(family, pretrained=str(tmp_path / 'none.pth'))
    torch.save(dict(list(source.state_dict().items())[:-1]), path)
    with pytest.raises(CheckpointError, match='does not fit'):
        build(family, pretrained=path)


@pytest.mark.parametrize('frozen_stages', [-1, 0, 1, 2])
def test_frozen_stages_do_not_train(family, frozen_stages):
    model = build(family, frozen_stages=frozen_stages).train()
    loss(model, image(32, 32)).backward()
    for name, parameter in model.named_parameters():
        top, index = (name.split('.') + ['0'])[:2]
        outside = not name.startswith(('layers', 'outnorm', 'norm_f'))
        frozen = frozen_stages >= 0 if outside else top == 'layers' and int(index) < frozen_stages
        assert parameter.requires_grad != frozen, name
        assert (parameter.grad is None) == frozen, name
    assert model.patch_embed.training == (frozen_stages < 0)


def test_unused_blocks_are_not_built(family):
    """Unused parameters would get no gradient, which stops DistributedDataParallel. The complete file still loads."""
    whole, part = build(family), build(family, out_indices=(0,))
    part.load_state_dict({name: t for name, t in whole.state_dict().items() if not name.startswith('outnorm')})
    loss(part, image(32, 32)).backward()
    assert all(parameter.grad is not None for parameter in part.parameters())
    assert sum(p.numel() for p in part.parameters()) < sum(p.numel() for p in whole.parameters())


def test_drop_path_acts_in_training_only(family):
    model, x = build(family, drop_path_rate=0.5), image(32, 32).repeat(8, 1, 1, 1)
    assert max(module.p for module in model.modules() if hasattr(module, 'p')) > 0
    model.eval()
    assert all(torch.equal(a, b) for a, b in zip(model(x), model(x)))
    model.train()
    assert not all(torch.equal(a, b) for a, b in zip(model(x), model(x)))


def test_with_cp_gives_the_same_gradients_and_saves_memory(family):
    model, x = build(family, drop_path_rate=0.5, in_channels=1).train(), image(96, 96, channels=1)
    grads, kept = [], []
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    for model.with_cp in (False, True):
        model.zero_grad()
        kept.append({})

        def count(tensor):
            if tensor.untyped_storage().data_ptr() not in weights:
                kept[-1][tensor.untyped_storage().data_ptr()] = tensor  # a reference, so that no address is reused
            return tensor

        torch.manual_seed(2)
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            value = loss(model, x)
        value.backward()
        grads.append([parameter.grad.clone() for parameter in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*grads))
    assert any(grad.abs().max() > 0 for grad in grads[0])
    without, with_cp = (sum(t.untyped_storage().nbytes() for t in tensors.values()) for tensors in kept)
    assert with_cp < 0.6 * without


@pytest.mark.parametrize('context', [torch.no_grad, torch.inference_mode])
def test_inference_matches_training(family, context):
    model, x = build(family).eval(), image(64, 80)
    expected = model(x)
    with context():
        for out, eager in zip(model(x), expected):
            torch.testing.assert_close(out, eager, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('context', [torch.enable_grad, torch.inference_mode])
def test_autocast_output_is_close_to_float32(family, dtype, context):
    model, x = build(family).eval(), image(64, 64)
    expected = model(x)
    with torch.autocast('cpu', dtype), context():
        outs = model(x)
    for out, eager in zip(outs, expected):
        assert (out.float() - eager).abs().max() < 0.05 * eager.abs().max()


@pytest.mark.skipif(torch.__version__ < '2.5', reason='PyTorch 2.4 does not trace the question whether a size is known')
def test_export_has_one_operator_per_block(family):
    model, x = build(family).eval(), image(48, 70)
    program = torch.export.export(model, (x,))
    scans = [node for node in program.graph.nodes if node.target is torch.ops.mmvmamba.selective_scan_2d.default]
    assert len(scans) == model.num_blocks
    for out, eager in zip(program.module()(x), model(x)):
        torch.testing.assert_close(out, eager)


def test_vmap_and_per_sample_gradients(family):
    """Each image of a batch is computed independently, and per-sample gradients match separate backward passes."""
    model, images = build(family).double().eval(), image(48, 32).double().unsqueeze(1)
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}

    def loss_of(parameters, x):
        return sum(out.sin().mean() for out in torch.func.functional_call(model, parameters, (x,)))

    with torch.no_grad():
        for each, outs in zip(torch.vmap(model)(images), zip(*map(model, images))):
            torch.testing.assert_close(each, torch.stack(outs))
    grads = torch.vmap(torch.func.grad(loss_of), in_dims=(None, 0))(parameters, images)
    for i, x in enumerate(images):
        model.zero_grad()
        loss(model, x).backward()
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(grads[name][i], parameter.grad)


def test_copied_models_give_the_same_output(family):
    """Tests deepcopy, and a meta-device model that is materialised and loaded later."""
    import copy

    model, x = build(family).eval(), image(32, 32)
    with torch.device('meta'):
        empty = family(**SMALL[family])
    empty = empty.to_empty(device='cpu').eval()
    empty.load_state_dict(model.state_dict())
    for other in (copy.deepcopy(model), empty):
        assert all(torch.equal(a, b) for a, b in zip(other(x), model(x)))


def test_layer_depths_cover_every_parameter(family):
    model = build(family)
    depths = [model.get_layer_depth(f'backbone.{name}', 'backbone.') for name, _ in model.named_parameters()]
    assert {total for _, total in depths} == {model.num_blocks + 2}
    assert {depth for depth, _ in depths} >= set(range(model.num_blocks + 1))
    assert model.get_layer_depth('head.fc.weight', 'backbone.') == (model.num_blocks + 1, model.num_blocks + 2)


def test_released_variants_are_identified(family):
    for name in family.archs:
        with torch.device('meta'):
            tensors = family(name).state_dict()
        found = family.identify_variant(tensors)
        assert found and family.archs[found['arch']] == family.archs[name]
        assert max(FAMILIES, key=lambda other: other.count_matching_keys(tensors)) is family


def test_training_reduces_the_loss(family):
    model, head, x = build(family).train(), nn.LazyLinear(1), image(32, 32)
    target = torch.tensor([[1.0], [-1.0]])
    head(model(x)[-1].mean((2, 3)))
    optimizer = torch.optim.AdamW([*model.parameters(), *head.parameters()], lr=3e-3)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        error = (head(model(x)[-1].mean((2, 3))) - target).square().mean()
        error.backward()
        optimizer.step()
        losses.append(error.item())
    assert losses[-1] < 0.5 * losses[0]


def test_meta_model_returns_the_output_shapes(family):
    """With and without gradients."""
    with torch.device('meta'):
        model = family(**SMALL[family])
    expected = [out.shape for out in build(family)(image(32, 48))]
    for context in (torch.enable_grad, torch.inference_mode):
        with context():
            assert [out.shape for out in model(image(32, 48).to('meta'))] == expected


@pytest.mark.parametrize(
    'x, message',
    [
        (torch.randn(1, 3, 64, 64, dtype=torch.float64), 'The images are torch.float64, the weights torch.float32'),
        (torch.randn(1, 3, 64, 64, dtype=torch.float16), 'The images are torch.float16, the weights torch.float32'),
        (torch.randn(1, 3, 64, 64, device='meta'), 'The images are on meta, the weights on cpu'),
        ([torch.randn(3, 64, 64)], 'The input is a list: it must be one tensor'),
    ],
)
def test_images_that_do_not_match_the_weights_are_rejected(family, x, message):
    with pytest.raises(ValueError, match=message):
        build(family)(x)


@pytest.mark.parametrize(
    'arguments, message',
    [
        (dict(out_indices=(0, 0)), r'out_indices=\(0, 0\) must name .*, each once'),
        (dict(with_cp='no'), "with_cp='no' must be True or False"),
        (dict(with_cp=torch.tensor(1)), 'with_cp=.* must be True or False'),
        (dict(in_channels=0), 'in_channels=0 must be an integer, at least 1'),
        (dict(init_cfg={'checkpoint': 'a.pth'}), 'must be a dict with a type'),
        (dict(init_cfg={'type': 'Pretrained'}), 'must name the checkpoint'),
        (dict(init_cfg=7), 'init_cfg=7 must be a dict with a type'),
        (dict(init_cfg=[NORMAL, WEIGHTS]), 'mixes weights with other settings: pass only'),
        (dict(init_cfg=NORMAL | dict(override=WEIGHTS)), 'mixes weights with other settings: pass only'),
        (
            dict(init_cfg=[NORMAL | dict(override=[WEIGHTS])]),
            'mixes weights with other settings: pass only',
        ),
    ],
)
def test_arguments_are_checked_at_construction(family, arguments, message):
    with pytest.raises(ValueError, match=message):
        build(family, **arguments)
