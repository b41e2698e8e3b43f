"""Tests that released files of every layout and naming generation load completely or are rejected."""

import argparse
import importlib.util
import json
import pickle
import re
import sys
from collections import OrderedDict
from pathlib import Path
from types import ModuleType

import pytest
import torch
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from mmvmamba import Vim, VMamba
from mmvmamba.checkpoint import (
    CheckpointError,
    load_checked,
    load_pretrained,
    match_state_dict,
    read_checkpoint,
    unwrap_state_dict,
)
from mmvmamba.conversion import to_mmengine, to_official

ROOT = Path(__file__).parents[1]
KEYS = json.loads((ROOT / 'tests/golden/keys_vmamba.json').read_text())
VIM_KEYS = json.loads((ROOT / 'tests/golden/keys_vim.json').read_text())

CURRENT = dict(dims=8, depths=(1, 1, 1, 1), ssm_ratio=1.0)
VANILLA = dict(
    dims=8, depths=(1, 1, 1, 1), d_state=2, mlp_ratio=0.0, gate=True, conv_bias=True, stem='patch', downsample='merging'
)
ARCHS = {'tiny_s1l8': CURRENT, 'vanilla_tiny': VANILLA}
VIM = dict(embed_dims=16, depth=2)


def official_names(variant, part):
    """Returns the keys of a released variant with one block per stage."""
    return [name for name in KEYS[variant][part] if not re.search(r'blocks\.[1-9]', name)]


def classifier(variant, classes=5):
    """Returns the tensors of a small classifier of this generation, under the released keys."""
    torch.manual_seed(1)
    tensors = dict(VMamba(ARCHS[variant], out_indices=(3,)).state_dict())
    for name in tensors:
        if tensors[name].is_floating_point():
            tensors[name] = torch.randn_like(tensors[name])
    for part in ('weight', 'bias'):
        tensors[f'classifier.norm.{part}'] = tensors.pop(f'outnorm3.{part}')
    tensors |= {'classifier.head.weight': torch.randn(classes, 64), 'classifier.head.bias': torch.randn(classes)}
    assert set(tensors) == set(official_names(variant, 'classifier'))
    return OrderedDict((name, tensors[name]) for name in official_names(variant, 'classifier'))


def first_names(tensors):
    """Renames keys to the first generation: one matrix for all directions, 1x1 convolutions, other names."""
    older = OrderedDict()
    for name, tensor in tensors.items():
        if re.search(r'op\.(x_proj|dt_projs)_weight', name):
            tensor = tensor.flatten(0, 1)
        elif tensor.dim() == 2 and re.search(r'(in|out)_proj|fc\d', name):
            tensor = tensor[..., None, None]
        for new, old in (
            (r'patch_embed\.0\.(.*)', r'patch_embed.proj.\1' if 'patch_embed.7.weight' not in tensors else r'\g<0>'),
            (r'patch_embed\.2\.(.*)', r'patch_embed.norm.\1' if 'patch_embed.7.weight' not in tensors else r'\g<0>'),
            (r'downsample\.norm', 'downsample.1'),
            (r'downsample\.reduction', 'downsample.2'),
            (r'op\.x_proj_weight', 'op.x_proj.weight'),
            (r'op\.dt_projs_weight', 'op.dt_projs.weight'),
            (r'\.op\.', '.self_attention.'),
            (r'(blocks\.\d+)\.norm\.', r'\1.ln_1.'),
            (r'^classifier\.', ''),
        ):
            name = re.sub(new, old, name)
        older[name] = tensor
    return older


GENERATIONS = {'present': lambda tensors: tensors, 'first': first_names}


@pytest.fixture
def save(tmp_path, monkeypatch):
    """Returns a function that writes tensors in the layout of a released file."""
    # official files are written in environments with yacs
    yacs, config = ModuleType('yacs'), ModuleType('yacs.config')
    config.CfgNode = type('CfgNode', (dict,), {'__module__': 'yacs.config', '__qualname__': 'CfgNode'})

    def save(tensors, layout='yacs', name=None):
        path = tmp_path / (name or f'{layout}.pth')
        extra = dict(
            optimizer=dict(state={0: torch.ones(1)}, param_groups=[]), lr_scheduler=dict(last_epoch=3), epoch=3
        )
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, 'yacs', yacs)
            patch.setitem(sys.modules, 'yacs.config', config)
            if layout == 'yacs':
                node = config.CfgNode(MODEL=config.CfgNode(NAME='vssm1_tiny', DEPTHS=[1, 1, 1, 1]))
                torch.save(dict(model=tensors, config=node, max_accuracy=82.6, **extra), path)
            elif layout == 'argparse':
                args = argparse.Namespace(model='vim_tiny', lr=1e-3)
                torch.save(dict(model=tensors, args=args, scaler={}, **extra), path)
            elif layout == 'ema':
                other = OrderedDict((key, torch.zeros_like(value)) for key, value in tensors.items())
                torch.save(dict(model=other, model_ema=tensors, **extra), path)
            elif layout == 'mmengine':
                meta = dict(dataset_meta=dict(classes=('a', 'b')), epoch=12, config='x = 1')
                torch.save(dict(state_dict=tensors, meta=meta, message_hub={}, **extra), path)
            else:
                torch.save(tensors, path)
        return path

    return save


def build(kind, backbone):
    """Builds a small detector, segmentor or classifier."""
    library = {'detector': 'mmdet', 'segmentor': 'mmseg', 'classifier': 'mmpretrain'}[kind]
    utils = pytest.importorskip(f'{library}.utils')
    utils.register_all_modules(init_default_scope=False)
    model = {
        'detector': dict(
            type='RetinaNet',
            neck=dict(type='FPN', in_channels=[8, 16, 32, 64], out_channels=8, num_outs=4, norm_cfg=dict(type='BN')),
            bbox_head=dict(
                type='RetinaHead',
                num_classes=2,
                in_channels=8,
                feat_channels=8,
                stacked_convs=1,
                anchor_generator=dict(type='AnchorGenerator', scales=[2], ratios=[1.0], strides=[4, 8, 16, 32]),
            ),
        ),
        'segmentor': dict(
            type='EncoderDecoder',
            decode_head=dict(
                type='FCNHead', in_channels=64, in_index=-1, channels=8, num_classes=2, norm_cfg=dict(type='BN')
            ),
            test_cfg=dict(mode='whole'),
        ),
        'classifier': dict(
            type='ImageClassifier',
            neck=dict(type='GlobalAveragePooling') if backbone['type'] == 'VMamba' else None,
            head=dict(type='LinearClsHead', num_classes=5, in_channels=16 if backbone['type'] == 'Vim' else 64),
        ),
    }[kind]
    with DefaultScope.overwrite_default_scope(library):
        return MODELS.build(dict(model, backbone=backbone))


def snapshot(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def equal(model, expected):
    return all(torch.equal(tensor, expected[name].view_as(tensor)) for name, tensor in model.state_dict().items())


class TestReleasedVariants:
    """Complete files in which torch.save stores one number per tensor."""

    @pytest.mark.parametrize('variant', KEYS)
    def test_vmamba_classifier_loads(self, variant, save):
        tensors = {name: torch.zeros(1).half().expand(shape) for name, shape in KEYS[variant]['classifier'].items()}
        tensors = unwrap_state_dict(read_checkpoint(save(tensors)))
        converted = to_mmengine(tensors).tensors
        names = set(KEYS[variant]['backbone']) - {f'outnorm{i}.{part}' for i in range(3) for part in ('weight', 'bias')}
        assert set(converted) == {f'backbone.{name}' for name in names} | {'head.fc.weight', 'head.fc.bias'}
        back = to_official(converted)
        assert {name: list(tensor.shape) for name, tensor in back.items()} == KEYS[variant]['classifier']

    @pytest.mark.parametrize('variant', VIM_KEYS)
    def test_vim_classifier_loads(self, variant, save):
        tensors = {name: torch.zeros(1).half().expand(shape) for name, shape in VIM_KEYS[variant].items()}
        tensors = unwrap_state_dict(read_checkpoint(save(tensors, 'argparse')))
        converted = to_mmengine(tensors).tensors
        assert len(converted) == 415
        assert {'backbone.pos_embed', 'backbone.norm_f.weight', 'head.fc.weight'} < set(converted)
        back = to_official(converted)
        assert {name: list(tensor.shape) for name, tensor in back.items()} == VIM_KEYS[variant]

    @pytest.mark.parametrize(
        'held, model, message',
        [
            (
                'tiny_s2l5',
                dict(type='VMamba', arch='tiny_s1l8'),
                'is VMamba tiny_s2l5, the config asks for VMamba tiny_s1l8',
            ),
            ('base_s2l15', dict(type='VMamba', arch='small'), 'is VMamba base_s2l15, .* VMamba small_s2l15'),
            ('vanilla_tiny', dict(type='VMamba', arch='tiny'), 'is VMamba vanilla_tiny, .* VMamba tiny_s1l8'),
            ('tiny_s1l8', dict(type='VMamba', arch=CURRENT), 'is VMamba tiny_s1l8, .* VMamba of other sizes'),
            ('tiny_s1l8', dict(type='Vim', arch='tiny'), 'is VMamba tiny_s1l8, the config asks for Vim tiny'),
            ('vim_tiny_patch16', dict(type='Vim', arch='small'), 'is Vim tiny, the config asks for Vim small'),
        ],
    )
    def test_error_names_the_variant_of_the_file(self, held, model, message, save):
        shapes = KEYS[held]['classifier'] if held in KEYS else next(VIM_KEYS[key] for key in VIM_KEYS if held in key)
        path = save({name: torch.zeros(1).expand(shape) for name, shape in shapes.items()})
        with torch.device('meta'):
            model = MODELS.build(model)
        with pytest.raises(CheckpointError, match=f'yacs.pth: This file {message}') as error:
            load_pretrained(model, path)
        assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize('generation', GENERATIONS)
@pytest.mark.parametrize('variant', ARCHS)
class TestEveryLayoutAndGeneration:
    def test_classification_file_loads_through_init_cfg(self, variant, generation, save, caplog):
        tensors = classifier(variant)
        path = save(GENERATIONS[generation](tensors))
        model = VMamba(ARCHS[variant], init_cfg=dict(type='Pretrained', checkpoint=str(path)))
        model.init_weights()
        expected = {name: tensor for name, tensor in tensors.items() if not name.startswith('classifier')}
        expected |= {
            f'outnorm{i}.{part}': torch.full((8 << i,), float(part == 'weight'))
            for i in range(4)
            for part in ('weight', 'bias')
        }
        assert equal(model, expected)

    @pytest.mark.parametrize('layout', ['yacs', 'argparse', 'bare'])
    def test_classification_file_loads_into_a_classifier(self, variant, generation, layout, save):
        tensors = classifier(variant)
        path = save(GENERATIONS[generation](tensors), layout)
        model = build('classifier', dict(type='VMamba', arch=ARCHS[variant], out_indices=(3,)))
        load_checked(model, unwrap_state_dict(read_checkpoint(path)), path)
        assert torch.equal(model.backbone.outnorm3.weight, tensors['classifier.norm.weight'])
        assert torch.equal(model.head.fc.bias, tensors['classifier.head.bias'])
        assert equal(
            model.backbone, tensors | {f'outnorm3.{p}': tensors[f'classifier.norm.{p}'] for p in ('weight', 'bias')}
        )

    @pytest.mark.parametrize('kind', ['detector', 'segmentor'])
    def test_file_of_a_whole_model_loads(self, variant, generation, kind, save):
        torch.manual_seed(0)
        source = build(kind, dict(type='VMamba', arch=ARCHS[variant]))
        tensors = snapshot(source)
        names = {f'backbone.{name}' for name in official_names(variant, 'backbone')}
        assert names == {name for name in tensors if name.startswith('backbone.')}
        older = GENERATIONS[generation]({k[9:]: v for k, v in tensors.items() if k in names})
        older = {f'backbone.{name}': tensor for name, tensor in older.items()}
        path = save(older | {k: v for k, v in tensors.items() if k not in names}, 'mmengine')
        model = build(kind, dict(type='VMamba', arch=ARCHS[variant]))
        load_checked(model, unwrap_state_dict(read_checkpoint(path)), path)
        assert equal(model, tensors)

        # the backbone alone, with and without an explicit prefix
        for prefix in ({}, dict(prefix='backbone.')):
            backbone = VMamba(ARCHS[variant], init_cfg=dict(type='Pretrained', checkpoint=str(path), **prefix))
            backbone.init_weights()
            assert equal(backbone, {k[9:]: v for k, v in tensors.items() if k in names})


def vim_classifier():
    torch.manual_seed(1)
    tensors = dict(Vim(VIM, pooling='middle').state_dict())
    tensors = {name: torch.randn_like(tensor) for name, tensor in tensors.items()}
    tensors |= {'head.weight': torch.randn(5, 16), 'head.bias': torch.randn(5)}
    key = next(key for key in VIM_KEYS if 'tiny_patch16' in key)
    assert set(tensors) == {name for name in VIM_KEYS[key] if not re.search(r'layers\.([2-9]|\d\d)', name)}
    return tensors


def test_vim_classifier_loads_into_classifier_and_dense_backbone(save):
    tensors = vim_classifier()
    path = save(tensors, 'argparse')
    model = build('classifier', dict(type='Vim', arch=VIM, pooling='middle'))
    load_checked(model, unwrap_state_dict(read_checkpoint(path)), path)
    assert torch.equal(model.head.fc.weight, tensors['head.weight'])
    assert equal(model.backbone, tensors)

    dense = Vim(VIM, img_size=128)
    found = match_state_dict(dense, tensors)
    assert found.resized == ['pos_embed']
    assert set(found.unexpected) == {'cls_token', 'norm_f.weight', 'head.weight', 'head.bias'}
    lines = found.report().splitlines()
    assert lines[0] == '36 unchanged, 0 renamed, 1 resized, 4 unexpected, 0 randomly initialised'
    assert ['resized', '1', 'pos_embed', 'pos_embed'] in [line.split() for line in lines]


def test_averaged_weights_are_loaded_on_request(save):
    tensors = classifier('tiny_s1l8')
    path = save(tensors, 'ema')
    for ema, expected in ((True, tensors['patch_embed.0.bias']), (False, torch.zeros(4))):
        model = VMamba(CURRENT, init_cfg=dict(type='Pretrained', checkpoint=str(path), ema=ema))
        model.init_weights()
        assert torch.equal(model.patch_embed[0].bias, expected)
    with pytest.raises(CheckpointError, match="has no averaged weights under 'model_ema'; its keys are: model, config"):
        unwrap_state_dict(read_checkpoint(save(tensors, 'yacs')), 'yacs.pth', ema=True)


def test_classifier_file_initialises_a_detector(save):
    tensors = first_names(classifier('tiny_s1l8'))
    model = build('detector', dict(type='VMamba', arch=CURRENT))
    before = snapshot(model)
    # fine-tuning takes only the backbone from it; testing needs all weights
    with pytest.raises(CheckpointError, match='needs all .* missing: .*outnorm'):
        load_checked(model, tensors, 'cls.pth')
    assert equal(model, before)
    load_checked(model, tensors, 'cls.pth', least=0.5)
    assert torch.equal(model.backbone.patch_embed[0].bias, tensors['patch_embed.0.bias'])
    assert torch.equal(model.backbone.outnorm3.weight, before['backbone.outnorm3.weight'])


def test_mmpretrain_classifier_initialises_a_backbone(save):
    """An ImageClassifier has one output norm, which is not loaded as the last output norm of a detector's backbone."""
    source = build('classifier', dict(type='VMamba', arch=CURRENT, out_indices=(3,)))
    path = save(source.state_dict(), 'mmengine')
    for prefix in ({}, dict(prefix='backbone.')):
        backbone = VMamba(CURRENT, init_cfg=dict(type='Pretrained', checkpoint=str(path), **prefix))
        backbone.init_weights()
        assert torch.equal(backbone.patch_embed[0].weight, source.backbone.patch_embed[0].weight)
    detector = build('detector', dict(type='VMamba', arch=CURRENT))
    load_checked(detector, source.state_dict(), 'own.pth', least=0.5)


def test_norm_of_a_single_output_is_loaded_from_the_classifier(save):
    for tensors in (classifier('tiny_s1l8'), first_names(classifier('tiny_s1l8'))):
        model = VMamba(CURRENT, out_indices=(3,), init_cfg=dict(type='Pretrained', checkpoint=str(save(tensors))))
        model.init_weights()
        expected = classifier('tiny_s1l8')['classifier.norm.weight']
        assert torch.equal(model.outnorm3.weight, expected) and not torch.equal(expected, torch.ones_like(expected))


@pytest.mark.parametrize('size', [160, 224, 256])
def test_vim_classifier_of_another_image_size_keeps_its_position_embedding(size):
    source = Vim('tiny', img_size=size, pooling='middle')
    nn.init.normal_(source.pos_embed)
    converted = to_mmengine(source.state_dict()).tensors
    assert torch.equal(converted['backbone.pos_embed'], source.pos_embed)


def test_report_lists_what_was_loaded(save):
    found = match_state_dict(
        build('classifier', dict(type='VMamba', arch=VANILLA, out_indices=(3,))),
        first_names(classifier('vanilla_tiny')),
    )
    assert not found.missing and not found.unexpected and not found.kept
    lines = [line.split() for line in found.report().splitlines()]
    assert ['tensors', 'in', 'the', 'file', 'in', 'the', 'model'] in lines
    assert ['renamed', '1', 'head.weight', 'head.fc.weight'] in lines
    assert ['renamed', '1', 'norm.weight', 'backbone.outnorm3.weight'] in lines
    row = ['layers.*.blocks.*.self_attention.x_proj.weight', 'backbone.layers.*.blocks.*.op.x_proj_weight']
    assert ['renamed', '4', *row] in lines


class Exits:
    def __reduce__(self):
        return exec, ('raise SystemExit("the file ran code")',)


TENSOR = 'layers.1.blocks.0.op.in_proj.weight'


@pytest.mark.parametrize(
    'change, message',
    [
        (
            lambda t, n: t.update({n.replace('in_proj', 'inproj'): t.pop(n)}),
            r'missing keys: \S*in_proj.*unexpected keys: \S*inproj\.weight',
        ),
        (lambda t, n: t.pop(n), r'missing keys: \S*in_proj\.weight'),
        (
            lambda t, n: t.update({n: t[n].T[:5]}),
            r'mismatched tensors: \S*in_proj\.weight has shape \(5, 16\) instead of \(16, 16\)',
        ),
        (
            lambda t, n: t.update({n: t[n].clone().index_fill_(0, torch.tensor(3), torch.nan)}),
            r'NaN or Inf in \S*in_proj',
        ),
        (lambda t, n: t.update({n: torch.full_like(t[n], -torch.inf)}), r'NaN or Inf in \S*in_proj\.weight'),
    ],
    ids=['renamed', 'missing', 'another-shape', 'nan', 'inf'],
)
@pytest.mark.parametrize('kind', ['backbone', 'classifier', 'detector', 'segmentor'])
def test_one_bad_tensor_is_rejected_and_nothing_is_loaded(kind, change, message, save):
    if kind in ('backbone', 'classifier'):
        tensors, name, path = dict(classifier('tiny_s1l8')), TENSOR, 'yacs.pth'
    else:
        tensors, name, path = (
            snapshot(build(kind, dict(type='VMamba', arch=CURRENT))),
            f'backbone.{TENSOR}',
            'mmengine.pth',
        )
    change(tensors, name)
    path = save(tensors, path.removesuffix('.pth'))
    outputs = dict(out_indices=(3,)) if kind == 'classifier' else {}
    model = VMamba(CURRENT) if kind == 'backbone' else build(kind, dict(type='VMamba', arch=CURRENT, **outputs))
    before = snapshot(model)
    state_dict = unwrap_state_dict(read_checkpoint(path))
    load = (
        (lambda: load_pretrained(model, path))
        if kind == 'backbone'
        else (lambda: load_checked(model, state_dict, path))
    )
    with pytest.raises(CheckpointError, match=rf'{path.name}: .*{message}') as error:
        load()
    assert len(str(error.value).splitlines()) == 1
    assert equal(model, before)


@pytest.mark.parametrize('part', ['neck.lateral_convs.1.conv.weight', 'bbox_head.retina_reg.bias'])
@pytest.mark.parametrize('change', ['missing', 'mismatched', 'NaN'])
def test_one_bad_tensor_outside_the_backbone_is_rejected(part, change, save):
    tensors = snapshot(build('detector', dict(type='VMamba', arch=CURRENT)))
    if change == 'missing':
        del tensors[part]
    else:
        tensors[part] = torch.ones(3) if change == 'mismatched' else tensors[part] * torch.nan
    model = build('detector', dict(type='VMamba', arch=CURRENT))
    before = snapshot(model)
    with pytest.raises(CheckpointError, match=rf'{change}.*{part}'):
        load_checked(model, tensors, 'detector.pth')
    assert equal(model, before)


def test_damaged_and_malicious_files_are_rejected(save, tmp_path):
    path = save(classifier('tiny_s1l8'))
    (tmp_path / 'half.pth').write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    torch.save(dict(model=dict(classifier('tiny_s1l8')), config=Exits()), tmp_path / 'bad.pth')
    (tmp_path / 'worse.pth').write_bytes(pickle.dumps(Exits(), protocol=2))
    for name, sentence in (
        ('half.pth', 'truncated or damaged'),
        ('bad.pth', 'was rejected without executing it'),
        ('worse.pth', 'was rejected without executing it'),
    ):
        model = VMamba(CURRENT, init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / name)))
        before = snapshot(model)
        with pytest.raises(CheckpointError, match=f'{name}.*{sentence}'):
            model.init_weights()
        assert equal(model, before)


# Tools


def tool(path):
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / 'tools' / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return lambda *arguments: module.main([str(argument) for argument in arguments])


CONFIG = """
custom_imports = dict(imports=['mmvmamba'], allow_failed_imports=False)
default_scope = 'mmpretrain'
model = dict(
    type='ImageClassifier', backbone={backbone}, neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=5, in_channels=64, topk=1))
data_preprocessor = dict(num_classes=5, mean=[127.0] * 3, std=[60.0] * 3)
test_dataloader = dict(
    batch_size=2, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='CustomDataset', data_root={root!r}, ann_file='classes.txt', data_prefix='', classes=list('abcde'),
        pipeline=[dict(type='LoadImageFromFile'), dict(type='PackInputs')]))
test_evaluator = dict(type='Accuracy', topk=1)
test_cfg = dict()
custom_hooks = [dict(type='EMAHook', momentum=1e-4, priority='ABOVE_NORMAL')]
"""


@pytest.mark.parametrize('generation', GENERATIONS)
def test_tools_test_accepts_a_released_classifier(generation, save, tmp_path):
    """Also with the hook that tests averaged weights, which must load them from the same file."""
    pytest.importorskip('mmpretrain')
    cv2 = pytest.importorskip('cv2')
    images = torch.randint(256, (2, 64, 64, 3), dtype=torch.uint8)
    for i, image in enumerate(images):
        cv2.imwrite(str(tmp_path / f'{i}.png'), image.numpy())
    (tmp_path / 'classes.txt').write_text('0.png 0\n1.png 1\n')
    config = tmp_path / 'config.py'
    backbone = dict(type='VMamba', arch=VANILLA, out_indices=(3,))
    config.write_text(CONFIG.format(backbone=backbone, root=str(tmp_path)))
    tensors = classifier('vanilla_tiny')
    path = save(GENERATIONS[generation](tensors))
    tool('test.py')(config, path, '--work-dir', tmp_path, '--out', tmp_path / 'scores.pkl')

    model = build('classifier', backbone)
    model.load_state_dict(
        {
            name.replace('classifier.norm', 'backbone.outnorm3').replace('classifier.head', 'head.fc')
            if name.startswith('classifier')
            else f'backbone.{name}': tensor
            for name, tensor in tensors.items()
        }
    )
    model.eval()
    with torch.no_grad():
        expected = model((images.permute(0, 3, 1, 2).float() - 127) / 60).softmax(1)
    found = [sample['pred_score'] for sample in pickle.loads((tmp_path / 'scores.pkl').read_bytes())]
    torch.testing.assert_close(torch.stack(found), expected, atol=1e-4, rtol=1e-3)

    del tensors['classifier.head.bias']
    with pytest.raises(SystemExit, match=r'less\.pth does not fit the model of this config: .* head\.fc\.bias'):
        tool('test.py')(config, save(tensors, name='less.pth'), '--work-dir', tmp_path)


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_converter_round_trip(suffix, save, tmp_path, capsys):
    pytest.importorskip('safetensors')
    convert = tool('model_converters/convert_checkpoint.py')
    config = tmp_path / 'config.py'
    config.write_text(CONFIG.format(backbone=dict(type='VMamba', arch=VANILLA, out_indices=(3,)), root=''))
    tensors = classifier('vanilla_tiny')
    clean, back = tmp_path / f'clean{suffix}', tmp_path / f'back{suffix}'
    convert(save(first_names(tensors), 'ema'), clean, '--config', config, '--ema')
    assert '->' in capsys.readouterr().out
    content = read_checkpoint(clean)
    assert suffix == '.safetensors' or content.keys() == {'state_dict', 'meta'}
    model = build('classifier', dict(type='VMamba', arch=VANILLA, out_indices=(3,)))
    model.load_state_dict(unwrap_state_dict(content))

    convert(clean, back, '--to', 'official', '--config', config)
    restored = unwrap_state_dict(read_checkpoint(back))
    assert restored.keys() == tensors.keys()
    assert all(torch.equal(restored[name], tensor) for name, tensor in tensors.items())

    with pytest.raises(SystemExit, match=r'ema\.pth is not converted: its backbone is not a released variant'):
        convert(save(tensors, 'ema'), tmp_path / 'other.pth')
    with pytest.raises(SystemExit):
        convert(clean, back)
    assert 'exists already' in capsys.readouterr().err


def test_converter_converts_a_detector_without_a_config(save, tmp_path):
    """A released variant needs no config; keys outside the backbone keep their names."""
    convert = tool('model_converters/convert_checkpoint.py')
    tensors = {f'backbone.{name}': torch.zeros(1).expand(s) for name, s in KEYS['vanilla_tiny']['backbone'].items()}
    tensors |= {'neck.weight': torch.ones(2), 'rpn_head.bias': torch.ones(1)}
    convert(save(tensors, 'mmengine'), tmp_path / 'clean.pth')
    content = read_checkpoint(tmp_path / 'clean.pth')
    assert content['meta'] == dict(dataset_meta=dict(classes=('a', 'b')))
    assert content['state_dict'].keys() == tensors.keys()


# Other sources


def test_safetensors_file_loads(tmp_path):
    files = pytest.importorskip('safetensors.torch')
    tensors = classifier('tiny_s1l8')
    path = tmp_path / 'vmamba.safetensors'
    files.save_file(tensors, path)
    model = VMamba(CURRENT, init_cfg=dict(type='Pretrained', checkpoint=str(path)))
    model.init_weights()
    assert torch.equal(model.patch_embed[0].bias, tensors['patch_embed.0.bias'])
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match='truncated or damaged'):
        read_checkpoint(path)


def test_hub_file_is_downloaded_and_loaded(save, monkeypatch):
    hub = pytest.importorskip('huggingface_hub')
    path, asked = save(classifier('tiny_s1l8')), []

    def download(repo_id, filename, revision):
        asked.append((repo_id, filename, revision))
        if 'none' in filename:
            raise OSError('404\nnot found')
        return str(path)

    monkeypatch.setattr(hub, 'hf_hub_download', download)
    assert 'model' in read_checkpoint('hf://owner/models/sub/vssm.pth')
    assert 'model' in read_checkpoint('hf://owner/models@v1/vssm.pth')
    assert asked == [('owner/models', 'sub/vssm.pth', None), ('owner/models', 'vssm.pth', 'v1')]
    with pytest.raises(CheckpointError, match=r'hf://owner/models/none\.pth cannot be downloaded \(404 not found\)'):
        read_checkpoint('hf://owner/models/none.pth')
    with pytest.raises(CheckpointError, match='write hf://OWNER/REPOSITORY/FILE'):
        read_checkpoint('hf://owner/models')
    monkeypatch.setattr('mmvmamba.checkpoint.locating.find_spec', lambda name: None)
    with pytest.raises(CheckpointError, match='needs huggingface_hub, which is not installed: pip install'):
        read_checkpoint('hf://owner/models/vssm.pth')
