"""Tests Vim against tensors of the official implementation, published counts, and the contract of a backbone."""

import argparse
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.registry import DefaultScope

from mmvmamba import Vim
from mmvmamba.checkpoint import CheckpointError
from mmvmamba.models import token_grid
from mmvmamba.models.bimamba import BiMamba
from mmvmamba.ops import use_backend

GOLDEN = Path(__file__).parents[1] / 'golden'
KEYS = json.loads((GOLDEN / 'keys_vim.json').read_text())
POOLED = dict(
    vim_cls=dict(pooling='middle'),
    vim_cls_stride8=dict(pooling='middle', patch_stride=8),
    vim_head_cls=dict(pooling='head'),
    vim_double_cls=dict(pooling='double'),
    vim_no_divide=dict(pooling='middle', divide_out=False),
    vim_mean_pool=dict(pooling='mean'),
    vim_max_pool=dict(pooling='max'),
)
DENSE = dict(vim_dense=dict(), vim_dense_rope=dict(rope_grid=2))
TINY = dict(embed_dims=16, depth=3, d_state=4)


def load(name):
    data = {key: torch.from_numpy(value) for key, value in np.load(GOLDEN / f'{name}.npz').items()}
    return data, {key[6:]: value for key, value in data.items() if key.startswith('state/')}


def golden_model(state, divide_out=True, **kwargs):
    model = Vim(dict(embed_dims=24, depth=4, divide_out=divide_out), img_size=64, **kwargs)
    model.load_state_dict(state)
    return model


def assert_gradients(grads, data):
    expected = {key[5:]: value for key, value in data.items() if key.startswith('grad/')}
    assert grads.keys() == expected.keys()
    for key, grad in grads.items():
        assert (grad - expected[key]).abs().max() <= 1e-4 * expected[key].abs().max(), key


def tokens(maps):
    return maps.flatten(2).transpose(1, 2)


@pytest.mark.parametrize('name', POOLED)
def test_logits_and_gradients_match_the_official_code(name):
    data, state = load(name)
    model = golden_model(state, **POOLED[name])
    x, weight, bias = (t.requires_grad_() for t in (data['x'], state['head.weight'], state['head.bias']))
    (feature,) = model(x)
    logits = F.linear(feature, weight, bias)
    logits = logits.amax(1) if model.pooling == 'max' else logits
    torch.testing.assert_close(logits, data['logits'], atol=1e-5, rtol=1e-5)
    (logits * data['w']).sum().backward()
    grads = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert_gradients(grads | {'x': x.grad, 'head.weight': weight.grad, 'head.bias': bias.grad}, data)


@pytest.mark.parametrize('name', DENSE)
def test_maps_and_gradients_match_the_official_code(name):
    data, state = load(name)
    model = golden_model(state, out_indices=(0, 1, 2, -1), **DENSE[name])
    x = data['x'].requires_grad_()
    maps = model(x)
    for i, out in enumerate(maps):
        torch.testing.assert_close(tokens(out), data[f'hidden{i}'] + data[f'residual{i}'], atol=1e-5, rtol=1e-5)
    ((tokens(maps[3]) * data['w']).sum() / 100).backward()
    assert_gradients({name: parameter.grad for name, parameter in model.named_parameters()} | {'x': x.grad}, data)

    model = golden_model(state, out_indices=(0, 1, 2, 3), feature='mixer', **DENSE[name])
    for i, out in enumerate(model(x)):
        torch.testing.assert_close(tokens(out), data[f'hidden{i}'], atol=1e-5, rtol=1e-5)

    # The official segmentation code adds the output of the next block as residual; the last block has no next one.
    model = golden_model(state, out_indices=(0, 1, 2, 3), feature='residual_official', **DENSE[name])
    expected = [data['residual1'], data['residual2'], data['residual3'], data['hidden3'] + data['residual3']]
    for out, residual in zip(model(x), expected):
        torch.testing.assert_close(tokens(out), residual, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    'name, count',
    [
        ('tiny_patch16_224', 7_148_008),
        ('tiny_patch16_stride8_224', 7_250_344),
        ('small_patch16_224', 25_796_584),
        ('small_patch16_stride8_224', 26_001_256),
        ('base_patch16_224', 97_598_440),
    ],
)
def test_keys_shapes_and_counts_match_the_released_variants(name, count):
    (expected,) = (shapes for key, shapes in KEYS.items() if key.startswith(f'vim_{name}_bimambav2'))
    with torch.device('meta'):
        model = Vim(name.split('_')[0], pooling='middle', patch_stride=8 if 'stride8' in name else 16)
    shapes = {key: list(value.shape) for key, value in model.state_dict().items()}
    width = shapes['norm_f.weight'][0]
    shapes |= {'head.weight': [1000, width], 'head.bias': [1000]}  # the classifier is in mmpretrain's head
    assert shapes == expected
    assert sum(math.prod(shape) for shape in shapes.values()) == count


@pytest.mark.parametrize(
    'kwargs',
    [
        dict(pooling='middle', rope_grid=2),
        dict(pooling='double', bidirectionality='ssm', patch_stride=2),
        dict(pooling='max', bidirectionality='alternating_blocks'),
        dict(feature='mixer', out_indices=(0, 2)),
    ],
)
def test_gradients_pass_gradcheck(kwargs):
    torch.manual_seed(0)
    arch = dict(embed_dims=4, depth=3, d_state=2)
    model = Vim(arch, img_size=12, in_channels=1, **dict(patch_size=4, patch_stride=4) | kwargs).double()
    x = torch.randn(2, 1, 8, 12, dtype=torch.float64, requires_grad=True)
    names, values = zip(*((name, p.detach().requires_grad_()) for name, p in model.named_parameters()))

    def run(x, *values):
        return torch.func.functional_call(model, dict(zip(names, values)), (x,))

    assert torch.autograd.gradcheck(run, (x, *values), fast_mode=True)


def test_initialisation_matches_the_official_code():
    torch.manual_seed(0)
    model = Vim(dict(embed_dims=64, depth=4), pooling='middle')
    mixer = model.layers[2].mixer
    dt = F.softplus(mixer.dt_proj.bias)
    assert 1e-3 * 0.99 < dt.min() < 2e-3 and 5e-2 < dt.max() < 0.1 * 1.01
    assert (mixer.dt_proj_b.bias == 0).all()
    assert mixer.dt_proj.weight.abs().max() <= 0.5
    torch.testing.assert_close(torch.exp(mixer.A_log[7]), torch.arange(1.0, 17.0))
    assert torch.equal(mixer.A_b_log, mixer.A_log)
    assert (mixer.D == 1).all() and (mixer.D_b == 1).all()
    bound = 128**-0.5 / 4**0.5
    assert 0.95 * bound < mixer.out_proj.weight.abs().max() <= bound
    # lecun_normal_ of timm 0.4.12: 1 / sqrt(fan in) / 0.8796, not truncated at two standard deviations
    std = (3 * 16 * 16) ** -0.5 / 0.8796
    assert model.patch_embed.proj.weight.std().item() == pytest.approx(std, rel=0.01)
    assert 4 * std < model.patch_embed.proj.weight.abs().max() < 6 * std
    assert (model.patch_embed.proj.bias == 0).all()
    assert model.pos_embed.std().item() == pytest.approx(0.02, rel=0.05)
    assert model.cls_token.std().item() == pytest.approx(0.02, rel=0.3)


class TestMixer:
    @pytest.mark.parametrize('backward', ['none', 'ssm', 'ssm_conv'])
    def test_backward_direction_equals_forward_on_the_flipped_sequence(self, backward):
        """Exchanging the parameters of the two branches and flipping the sequence gives the flipped output."""
        torch.manual_seed(0)
        mixer, x = BiMamba(8, backward_direction=backward), torch.randn(2, 7, 8)
        if backward == 'none':
            torch.testing.assert_close(mixer(x, reverse=True), mixer(x.flip(1)).flip(1))
            return
        twin = BiMamba(8, backward_direction=backward)
        pairs = [('A_log', 'A_b_log'), ('D', 'D_b')] + [
            (f'{name}.', f'{name}_b.') for name in ('x_proj', 'dt_proj', 'conv1d')
        ]
        exchanged = {}
        for name, value in mixer.state_dict().items():
            for a, b in pairs:
                if name == a or name.startswith(a) and a.endswith('.'):
                    name = name.replace(a, b)
                    break
                if name == b or name.startswith(b) and b.endswith('.'):
                    name = name.replace(b, a)
                    break
            exchanged[name] = value
        if backward == 'ssm_conv':
            twin.load_state_dict(exchanged)
            torch.testing.assert_close(twin(x.flip(1)).flip(1), mixer(x))
        else:  # one causal convolution serves both directions and is not symmetric
            assert 'conv1d_b.weight' not in mixer.state_dict() and 'x_proj_b.weight' in mixer.state_dict()

    def test_each_direction_depends_only_on_earlier_tokens(self):
        x = torch.randn(1, 9, 8)
        changed = x.clone()
        changed[:, 4] += 1
        for backward, reverse, reach in (
            ('none', False, range(4, 9)),
            ('none', True, range(5)),
            ('ssm', False, range(9)),
            ('ssm_conv', False, range(9)),
        ):
            mixer = BiMamba(8, backward_direction=backward)
            moved = (mixer(x, reverse) - mixer(changed, reverse)).abs().amax((0, 2)) > 0
            assert moved.nonzero().flatten().tolist() == list(reach), backward


class TestAblations:
    @pytest.mark.parametrize('bidirectionality', ['none', 'random_flip', 'alternating_blocks'])
    def test_each_block_has_one_direction(self, bidirectionality):
        torch.manual_seed(0)
        model = Vim(TINY, bidirectionality=bidirectionality, out_indices=(0, 1)).eval()
        assert not [name for name in model.state_dict() if '_b.' in name or name.endswith(('_b', '_b_log'))]
        x = torch.randn(1, 3, 32, 64)
        changed = x.clone()
        changed[:, :, :16, 32:48] += 1  # the token with index 2 of 8
        moved = [(a - b).abs().amax(1).flatten() > 0 for a, b in zip(model(x), model(changed))]
        assert moved[0].nonzero().flatten().tolist() == list(range(2, 8))
        if bidirectionality == 'alternating_blocks':
            assert moved[1].all()
        else:
            assert moved[1].nonzero().flatten().tolist() == list(range(2, 8))

    def test_random_flip_reverses_about_half_of_the_training_batches(self):
        torch.manual_seed(0)
        model, x = Vim(TINY, bidirectionality='random_flip').train(), torch.randn(1, 3, 32, 64)
        changed = x.clone()
        changed[:, :, 16:, 48:] += 1  # the last token
        backwards = 0
        for seed in range(40):
            outs = []
            for image in (x, changed):
                torch.manual_seed(seed)
                outs.append(model(image)[0])
            backwards += (outs[0] - outs[1])[:, :, 0, 0].abs().max().item() > 0
        assert 10 < backwards < 30

    def test_class_token_is_not_rotated(self):
        """Rotating by the token grid alone would set the angle of every class token to zero."""
        model = Vim(TINY, img_size=48, pooling='middle', rope_grid=3)
        cos, sin = model._rotation(3, 3, torch.zeros(1, 10, 16))
        assert (cos[0, 4] == 1).all() and (sin[0, 4] == 0).all()
        assert (sin[0, 5] != 0).any() and sin.shape == (1, 10, 16)


@pytest.mark.parametrize('size', [(64, 64), (33, 95), (16, 50)])
@pytest.mark.parametrize('patch_stride', [16, 8])
def test_maps_support_any_image_size(size, patch_stride):
    model = Vim(TINY, in_channels=5, patch_stride=patch_stride, out_indices=(0, 2), rope_grid=14)
    outs = model(torch.randn(2, 5, *size))
    expected = tuple((side - 16) // patch_stride + 1 for side in size)
    assert [out.shape for out in outs] == [(2, 16, *expected)] * 2
    assert all(out.is_contiguous() for out in outs)
    sum(out.square().mean() for out in outs).backward()
    assert model.pos_embed.grad.abs().max() > 0


@pytest.mark.parametrize(
    'pooling, shape', [('middle', (2, 16)), ('double', (2, 16)), ('mean', (2, 16)), ('max', (2, 10, 16))]
)
def test_pooled_features_support_any_image_size(pooling, shape):
    assert [out.shape for out in Vim(TINY, pooling=pooling)(torch.randn(2, 3, 33, 95))] == [shape]


@pytest.mark.parametrize('bidirectionality', ['none', 'alternating_blocks', 'ssm', 'ssm_conv'])
def test_chunked_inference_matches_training(bidirectionality, monkeypatch):
    torch.manual_seed(0)
    model = Vim(dict(embed_dims=32, depth=2), bidirectionality=bidirectionality)
    x = torch.randn(2, 3, 64, 80)
    expected = model(x)[0]
    monkeypatch.setattr('mmvmamba.memory.cpu_fast_path.CHUNK_TOKENS', 7)
    with torch.no_grad():
        torch.testing.assert_close(model(x)[0], expected)


def test_map_cells_correspond_to_their_patches():
    """In a forward scan, changing one patch changes its own cell and the following cells only."""
    model = Vim(TINY, bidirectionality='none', out_indices=(0,))
    x = torch.randn(1, 3, 48, 80)
    changed = x.clone()
    changed[:, :, 16:32, 48:64] += 1
    moved = (model(x)[0] - model(changed)[0]).abs().amax((0, 1)) > 0
    assert moved.flatten().nonzero().flatten().tolist() == list(
        range(8, 15)
    )  # row 1, column 3 of 3 x 5, and the following cells


@pytest.mark.parametrize('pooling, last', [('middle', 0.4), (None, 0)])
def test_drop_path_increases_linearly_and_acts_in_training_only(pooling, last):
    model = Vim(dict(embed_dims=16, depth=5), drop_path_rate=0.4, pooling=pooling)
    assert [block.drop_path.p for block in model.layers] == pytest.approx([0, 0.1, 0.2, 0.3, last])
    x = torch.randn(4, 3, 32, 32)
    model.eval()
    assert torch.equal(model(x)[0], model(x)[0])
    model.train()
    assert not torch.equal(model(x)[0], model(x)[0])


def test_residual_stream_stays_in_float32_under_autocast():
    """Under autocast, blocks compute in bfloat16 and add to a float32 residual; 16-bit models return their dtype."""
    torch.manual_seed(0)
    model, x = Vim(TINY).eval(), torch.randn(1, 3, 64, 64)
    expected = model(x)[0]
    streams = []
    for block in model.layers:
        block.register_forward_hook(lambda module, args, out: streams.append((out[0].dtype, out[1].dtype)))
    with torch.autocast('cpu', torch.bfloat16):
        out = model(x)[0]
    assert streams == [(torch.bfloat16, torch.float32)] * 3
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, expected, atol=0.03, rtol=0.03)
    streams.clear()
    out = model.bfloat16()(x.bfloat16())[0]
    assert streams == [(torch.bfloat16, torch.float32)] * 3
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), expected, atol=0.05, rtol=0.05)


def test_layer_depths():
    model = Vim(TINY, pooling='middle')
    assert {model.get_layer_depth(name) for name in ('pos_embed', 'cls_token', 'patch_embed.proj.bias')} == {(0, 5)}
    assert model.get_layer_depth('backbone.layers.2.mixer.A_b_log', 'backbone.') == (3, 5)
    assert model.get_layer_depth('norm_f.weight') == (4, 5)
    assert model.get_layer_depth('head.fc.weight', 'backbone.') == (4, 5)


@pytest.mark.parametrize(
    'kwargs, message',
    [
        (dict(arch='huge'), "Unknown arch 'huge': choose from tiny, small, base"),
        (dict(arch=dict(embed_dims=16)), 'arch lacks depth'),
        (dict(arch=dict(embed_dims=16, depth=2, depths=3)), 'Unknown field of arch: depths'),
        (dict(pooling='cls'), "pooling='cls' must be one of middle, head, double, mean, max"),
        (dict(pooling='mean', feature='mixer'), "pooling='mean' gives one feature of the last block"),
        (dict(pooling='middle', out_indices=(5, 11)), "pooling='middle' gives one feature of the last block"),
        (dict(feature='both'), "feature='both' must be one of residual, residual_official, mixer"),
        (dict(bidirectionality='both'), "bidirectionality='both' must be one of none, random_flip"),
        (dict(pretrained_cls_slot='double'), "pretrained_cls_slot='double' must be one of middle, head, official"),
        (dict(out_indices=(24,)), r'out_indices=\(24,\) must name blocks -24 to 23'),
        (dict(frozen_stages=25), 'frozen_stages=25 must be an integer, -1 to 24'),
        (dict(img_size=(224, 160)), r'img_size=\(224, 160\) must be one integer, at least patch_size=16'),
        (dict(img_size=8), 'img_size=8 must be one integer, at least patch_size=16'),
        (dict(rope_grid=(14, 10)), r'rope_grid=\(14, 10\) .* needs the side of a square pre-training grid'),
        (dict(rope_grid=14, arch=dict(embed_dims=18, depth=1)), 'rope_grid=14 with embed_dims=18'),
    ],
)
def test_invalid_arguments_are_rejected(kwargs, message):
    with pytest.raises(ValueError, match=message):
        Vim(**kwargs)


def test_image_smaller_than_a_patch_is_rejected():
    with pytest.raises(ValueError, match='The image is 12 x 40 pixels, smaller than a patch of 16 x 16'):
        Vim(TINY)(torch.randn(1, 3, 12, 40))


class TestPosition:
    @pytest.mark.parametrize('place, slots', [('middle', (4,)), ('head', (0,)), ('double', (0, 10)), ('none', ())])
    def test_inserted_tokens_can_be_split_off_again(self, place, slots):
        sequence, extra = torch.randn(2, 9, 3), torch.randn(1, len(slots), 3)
        assert token_grid.class_slots(place, 9) == slots
        joined = token_grid.insert_tokens(sequence, extra, slots)
        assert all(torch.equal(joined[1, slot], token) for slot, token in zip(slots, extra[0]))
        assert torch.equal(token_grid.split_tokens(joined, slots)[0], sequence)

    def test_resizing_preserves_a_linear_embedding(self):
        row, column = torch.meshgrid(torch.arange(6.0), torch.arange(6.0), indexing='ij')
        grid = torch.stack([row, column], -1).flatten(0, 1)[None]
        out = token_grid.resize_pos_embed(grid, 12, 6).unflatten(1, (12, 6))
        # this bicubic kernel (a = -0.75) reproduces linear functions only to within 0.05 of a cell
        torch.testing.assert_close(out[0, 4:8, 3, 0], torch.tensor([1.75, 2.25, 2.75, 3.25]), atol=0.05, rtol=0)
        torch.testing.assert_close(out[0, :, 2:4, 1], torch.tensor([2.0, 3.0]).expand(12, 2))


class TestLoading:
    """Tests files in the official layout, and their possible faults."""

    @pytest.fixture
    def official(self, tmp_path):
        """Returns a function that saves a file like the official training code, with an argparse.Namespace."""

        def save(change=lambda state: None, wrap=lambda state: dict(model=state), **kwargs):
            torch.manual_seed(0)
            state = dict(Vim(TINY, **dict(img_size=96, pooling='middle') | kwargs).state_dict())
            state |= {'head.weight': torch.randn(10, 16), 'head.bias': torch.randn(10)}
            change(state)
            path = tmp_path / 'vim.pth'
            args = argparse.Namespace(model='vim_tiny', batch_size=128)
            torch.save(
                wrap(state) | dict(optimizer={}, lr_scheduler={}, epoch=299, model_ema=state, scaler={}, args=args),
                path,
            )
            return str(path), state

        return save

    @staticmethod
    def start(path, **kwargs):
        model = Vim(TINY, init_cfg=dict(type='Pretrained', checkpoint=path), **dict(img_size=96) | kwargs)
        model.init_weights()
        return model

    def test_file_loads_into_the_same_classifier(self, official):
        path, state = official()
        model = self.start(path, pooling='middle')
        assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())

    def test_class_token_entry_is_removed_at_its_position(self, official):
        path, state = official()
        entries = state['pos_embed'][0]
        model = self.start(path)
        assert torch.equal(model.pos_embed[0], torch.cat([entries[:18], entries[19:]]))
        assert 'norm_f.weight' not in model.state_dict()
        for slot in ('official', 'head'):
            assert torch.equal(self.start(path, pretrained_cls_slot=slot).pos_embed[0], entries[1:])

    def test_both_class_token_entries_of_a_double_model_are_removed(self, official):
        path, state = official(pooling='double')
        assert torch.equal(self.start(path).pos_embed[0], state['pos_embed'][0, 1:-1])

    def test_position_embedding_of_a_mean_pooled_model_loads_unchanged(self, official):
        path, state = official(pooling='mean')
        assert torch.equal(self.start(path).pos_embed, state['pos_embed'])

    @pytest.mark.parametrize('pooling', [None, 'middle'])
    def test_resizing_on_loading_matches_resizing_at_run_time(self, official, pooling):
        path, state = official()
        at_load = self.start(path, img_size=128, pooling=pooling)
        at_run = self.start(path, pooling=pooling)
        assert at_load.pos_embed.shape[1] == 64 + (pooling is not None)
        x = torch.randn(1, 3, 128, 128)
        torch.testing.assert_close(at_load(x)[0], at_run(x)[0], atol=1e-5, rtol=1e-5)
        if pooling:
            assert torch.equal(at_load.pos_embed[0, 32], state['pos_embed'][0, 18])

    def test_stride_16_file_initialises_the_stride_8_model(self, official):
        path, _ = official()
        assert self.start(path, patch_stride=8, pooling='middle').pos_embed.shape[1] == 11 * 11 + 1

    def test_official_slot_initialises_the_stride_8_model_like_the_official_code(self, official):
        """The first of the 37 entries is kept; the actual class token entry, the 19th, becomes part of the grid."""
        path, state = official()
        model = self.start(path, patch_stride=8, pooling='middle', pretrained_cls_slot='official')
        grid = state['pos_embed'][:, 1:].mT.unflatten(2, (6, 6))
        grid = F.interpolate(grid, (11, 11), mode='bicubic', align_corners=False).flatten(2).mT
        assert torch.equal(model.pos_embed, torch.cat([state['pos_embed'][:, :1], grid], 1))

    @pytest.mark.parametrize('size', [96, 224])
    def test_stride_8_file_is_rejected_by_a_stride_16_model(self, official, size):
        path, _ = official(img_size=size, patch_stride=8)
        side = (size - 16) // 8 + 1
        message = rf'{side} x {side} grid, .* this model has patch_stride=16: use Vim\(patch_stride=8\), or'
        with pytest.raises(CheckpointError, match=message):
            self.start(path, pooling='middle')

    def test_ambiguous_grid_asks_for_img_size(self, official):
        path, _ = official(img_size=432)  # 27 x 27, as for stride 8 at 224
        with pytest.raises(CheckpointError, match='set img_size to their size'):
            self.start(path, pooling='middle', img_size=224)
        self.start(path, pooling='middle', img_size=432)

    def test_rotary_buffers_load_only_into_a_rotary_model(self, official):
        buffers = {'rope.freqs_cos': torch.ones(36, 16), 'rope.freqs_sin': torch.zeros(36, 16)}
        path, _ = official(change=lambda state: state.update(buffers))
        self.start(path, rope_grid=6)
        with pytest.raises(CheckpointError, match='unexpected keys: rope.freqs_cos, rope.freqs_sin'):
            self.start(path)

    def test_backbone_of_a_segmentor_file_loads(self, official):
        path, state = official(wrap=lambda state: dict(state_dict={f'backbone.{k}': v for k, v in state.items()}))
        model = Vim(TINY, img_size=96, init_cfg=dict(type='Pretrained', checkpoint=path, prefix='backbone.'))
        model.init_weights()
        assert torch.equal(model.layers[0].mixer.D_b, state['layers.0.mixer.D_b'])

    def test_backbone_inside_a_larger_model_loads_with_the_same_checks(self):
        """Loading a detector also runs the backbone's own checks, including those of the position embedding."""
        outer, source = torch.nn.Module(), Vim(TINY, img_size=96, pooling='middle').state_dict()
        outer.backbone = Vim(TINY, img_size=64)
        outer.load_state_dict({f'backbone.{key}': value for key, value in source.items()})
        assert torch.equal(outer.backbone.layers[1].norm.weight, source['layers.1.norm.weight'])

    @pytest.mark.parametrize(
        'change, message',
        [
            (lambda s: s.pop('layers.0.mixer.A_b_log'), 'missing keys: layers.0.mixer.A_b_log'),
            (lambda s: s.pop('cls_token'), 'missing keys: cls_token'),
            (lambda s: s.pop('norm_f.weight'), 'missing keys: norm_f.weight'),
            (lambda s: s.update(extra=torch.ones(1)), 'unexpected keys: extra'),
            (
                lambda s: s.update(pos_embed=torch.ones(1, 41, 16)),
                'has 41 entries, which is not a square grid plus 1 class token',
            ),
            (
                lambda s: s.update(pos_embed=torch.ones(1, 37, 8)),
                r'mismatched tensors: pos_embed has shape \(1, 37, 8\) instead of \(1, 37, 16\)',
            ),
            (
                lambda s: s.update({'norm_f.weight': torch.ones(9)}),
                r'mismatched tensors: norm_f.weight has shape \(9,\) instead of \(16,\)',
            ),
        ],
    )
    def test_mismatching_file_is_rejected(self, official, change, message):
        path, _ = official(change=change)
        with pytest.raises(CheckpointError, match=message):
            self.start(path, pooling='middle')

    def test_file_of_another_pooling_is_rejected(self, official):
        path, _ = official()
        with pytest.raises(CheckpointError, match='missing keys: cls_token_head, cls_token_tail'):
            self.start(path, pooling='double')


def test_max_pooling_head_matches_the_official_logits():
    pytest.importorskip('mmpretrain')
    from mmvmamba.models.token_max_cls_head import TokenMaxClsHead

    data, state = load('vim_max_pool')
    model = golden_model(state, pooling='max')
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        head = TokenMaxClsHead(num_classes=10, in_channels=24)
    head.fc.load_state_dict({key[5:]: value for key, value in state.items() if key.startswith('head.')})
    torch.testing.assert_close(head(model(data['x'])), data['logits'], atol=1e-5, rtol=1e-5)


@pytest.mark.skipif(torch.__version__ < '2.5', reason='PyTorch 2.4 does not trace the question whether a size is known')
@pytest.mark.parametrize('kwargs', [dict(pooling='middle'), dict(rope_grid=14, bidirectionality='alternating_blocks')])
def test_compile_and_export_have_one_operator_per_block(kwargs):
    torch.manual_seed(0)
    model, x = Vim(TINY, **kwargs).eval(), torch.randn(1, 3, 48, 70)
    expected = model(x)[0]
    compiled = torch.compile(model, fullgraph=True, backend='aot_eager')
    torch.testing.assert_close(compiled(x)[0], expected)
    compiled(x)[0].sin().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    with torch.no_grad():
        torch.testing.assert_close(compiled(x)[0], expected)

    program = torch.export.export(model, (x,))
    scans = [node for node in program.graph.nodes if node.target is torch.ops.mmvmamba.selective_scan_2d.default]
    assert len(scans) == 3
    torch.testing.assert_close(program.module()(x)[0], expected)


def test_reference_backend_gives_the_same_output():
    model, x = Vim(TINY).eval(), torch.randn(1, 3, 48, 64)
    with use_backend('reference'):
        expected = model(x)[0]
    torch.testing.assert_close(model(x)[0], expected, atol=1e-5, rtol=1e-5)
