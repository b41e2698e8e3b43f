"""Tests the model zoo: every config is listed, builds, and matches the published model."""

import importlib
from pathlib import Path

import pytest
import torch
import yaml
from mmengine.analysis import FlopAnalyzer
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS

import mmvmamba  # noqa: F401  (MMEngine counts the scan)

from .test_configs import DET, NAMES, SEG, build_shallow, learning_rates, make_shallow

ROOT = Path(__file__).parents[1]
CASCADE = 'vmamba/cascade-mask-rcnn_vmamba-{}_fpn_4conv1fc-giou_amp-{}_coco.py'
CLS = 'vmamba/vmamba-{}_8xb128_in1k.py'
DET_3X = 'vmamba/mask-rcnn_vmamba-{}_fpn_ms-crop-3x_coco.py'
SEG_VANILLA, DET_VANILLA = SEG.format('vanilla-t'), DET.format('vanilla-t')

INDEX = yaml.safe_load((ROOT / 'model-index.yml').read_text())['Import']
METAFILES = {path: yaml.safe_load((ROOT / path).read_text()) for path in INDEX}
ZOO = {model['Config'].removeprefix('configs/'): model for file in METAFILES.values() for model in file['Models']}

# Million parameters and GFLOPs as published: ImageNet at 224x224, Mask R-CNN at 1280x800, UPerNet at 2048x512.
PUBLISHED = {
    'vanilla-t': [(23, 5.6), (42, 286), (55, 964)],
    'vanilla-s': [(44, 11.2), (64, 400), (76, 1081)],
    'vanilla-b': [(76, 18.0), (96, 540), (110, 1226)],
    't-s2l5': [(31, 4.9), (50, 270), (62, 948)],
    't': [(30, 4.9), (50, 271), (62, 949)],
    's': [(50, 8.7), (70, 349), (82, 1028)],
    'b': [(89, 15.4), (108, 485), (122, 1170)],
    's-s1l20': [(49, 8.6)],
    'b-s1l20': [(87, 15.2)],
}
CLASSIFIERS = {
    CLS.format('vanilla-t'): 22_893_448, CLS.format('vanilla-s'): 44_417_416, CLS.format('vanilla-b'): 76_254_056,
    CLS.format('t-s2l5'): 30_705_832, CLS.format('t'): 30_249_064, CLS.format('s'): 50_147_752,
    CLS.format('s-s1l20'): 49_012_840, CLS.format('b'): 88_557_800, CLS.format('b-s1l20'): 86_614_504,
    'vim/vim-t_8xb128_in1k.py': 7_148_008, 'vim/vim-t-plus_8xb128-30e_in1k.py': 7_250_344,
    'vim/vim-s_8xb64_in1k.py': 25_796_584, 'vim/vim-s-plus_8xb128-30e_in1k.py': 26_001_256,
    'vim/vim-b_8xb128_in1k.py': 97_598_440,
}  # fmt: skip


@pytest.fixture
def tool(monkeypatch):
    """Returns a function that imports a tool of tools/analysis_tools."""
    monkeypatch.syspath_prepend(ROOT / 'tools' / 'analysis_tools')
    return importlib.import_module


def test_zoo_lists_every_config():
    assert set(ZOO) == {name for name in NAMES if not name.startswith(('demo/', 'your_data/'))}
    for path, metafile in METAFILES.items():
        collections = {collection['Name'] for collection in metafile['Collections']}
        names = [model['Name'] for model in metafile['Models']]
        assert len(names) == len(set(names))
        for model in metafile['Models']:
            assert Path(model['Config']) == Path(path).parent / f'{model["Name"]}.py'
            assert model['In Collection'] in collections
            assert model.get('Weights', 'https://').startswith('https://')


@pytest.mark.parametrize('metafile', INDEX)
def test_tables_agree_with_the_metafile(metafile, tool):
    zoo_tables = tool('zoo_tables')
    readme = (ROOT / metafile).with_name('README.md').read_text()
    assert zoo_tables.fill(readme, zoo_tables.read_models(ROOT / metafile)) == readme
    changed = zoo_tables.read_models(ROOT / metafile)
    changed[0]['Metadata']['Parameters'] *= 2
    assert zoo_tables.fill(readme, changed) != readme
    with pytest.raises(ValueError, match='Another table'):
        zoo_tables.fill(readme, [*changed, dict(changed[0], Table='Another table')])


def test_published_values_match_the_publications():
    published = {}
    for variant, figures in PUBLISHED.items():
        detector = 'mask-rcnn_vmamba-vanilla-b_fpn_16xb1-1x_coco' if variant == 'vanilla-b' else DET.format(variant)
        names = [CLS.format(variant), f'vmamba/{Path(detector).stem}.py', SEG.format(variant)]
        published |= dict(zip(names, figures))
    for name, (parameters, gflops) in published.items():
        assert ZOO[name]['Published']['Parameters (M)'] == parameters
        assert ZOO[name]['Published']['FLOPs (G)'] == gflops
    assert {name: ZOO[name]['Metadata']['Parameters'] for name in CLASSIFIERS} == CLASSIFIERS


@pytest.mark.parametrize('name', ZOO)
def test_config_matches_the_published_model(name, tool):
    model = ZOO[name]
    pytest.importorskip(Config.fromfile(ROOT / model['Config']).default_scope)
    if 'Published' in model and 'mask-rcnn' in name and torch.__version__ < '2.5':
        pytest.skip('PyTorch 2.4 also shows the counter the upsampling of FPN: 0.02 GFLOPs more')
    report = tool('zoo_report')
    if 'Published' in model:
        found = report.differences(model, *report.count(model))
        assert not [each for each in found if each.startswith('metafile')], found
        assert not found or 'Remark' in model, found
        assert 'FLOPs' not in found
    else:
        built = report.build_empty(Config.fromfile(ROOT / model['Config']))
        assert report.count_parameters(built) == model['Metadata']['Parameters']


def test_report_detects_differences(tool):
    report, model = tool('zoo_report'), ZOO[DET.format('t')]
    parameters, gflops = model['Metadata']['Parameters'], model['Metadata']['FLOPs (G)']
    assert not report.differences(model, parameters, gflops)
    assert report.differences(model, parameters + 10**6, gflops)[-1] == 'parameters'
    assert report.differences(model, parameters, gflops * 1.03)[-1] == 'FLOPs'
    assert 'metafile' in report.differences(model, parameters + 1, gflops)[0]


@pytest.mark.parametrize('name', [CLS.format('t'), SEG.format('t'), SEG_VANILLA])
def test_flop_count_matches_mmengine(name, load, tool):
    get_flops = tool('get_flops')
    cfg = load(name)
    make_shallow(cfg.model.backbone)

    class Tensor(torch.nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, image):
            return self.model(image, mode='tensor')

    model = Tensor(revert_sync_batchnorm(MODELS.build(cfg.model))).eval()
    analysis = FlopAnalyzer(model, torch.rand(1, 3, 64, 96))
    for uncounted in ('aten::batch_norm', 'aten::adaptive_avg_pool2d'):
        analysis.set_op_handle(uncounted, lambda inputs, outputs: 0)
    analysis.unsupported_ops_warnings(False).tracer_warnings('none')
    with torch.no_grad():
        expected = analysis.total()
    assert get_flops.count_flops(get_flops.build_empty(cfg), (64, 96)).total() == expected


def test_get_flops_prints_parameters_and_flops(tool, capsys):
    get_flops = tool('get_flops')
    pytest.importorskip('mmpretrain')
    get_flops.main([str(ROOT / 'configs' / CLS.format('t')), '--shape', '64', '64'])
    printed = capsys.readouterr().out
    assert 'Parameters  30.25M' in printed
    assert 'selective_scan_2d' in printed


# Weights


@pytest.mark.parametrize('name', [name for name in ZOO if 'vmamba-' in name and 'in1k' not in name])
def test_config_names_its_official_checkpoint(name):
    cfg = Config.fromfile(ROOT / 'configs' / name)
    architecture = ZOO[name]['Metadata']['Architecture']
    classifier = next((m for m in ZOO.values() if m['Table'] == 'ImageNet-1K'
                       and m['Metadata']['Architecture'] == architecture), None)  # fmt: skip
    if classifier is None:  # no weights are released for this variant
        assert cfg.model.backbone.init_cfg is None
        return
    assert cfg.model.backbone.init_cfg == dict(type='Pretrained', checkpoint=classifier['Weights'])
    arch = Config.fromfile(ROOT / classifier['Config']).model.backbone.arch
    assert cfg.model.backbone.arch == arch


# Recipes: batch, schedule, learning rates, weight decay. Published values, transcribed.


def on_cpu(optim_wrapper):
    """Autocast to float16 needs a GPU; the parameter groups are the same without it."""
    return {key: value for key, value in optim_wrapper.items() if key not in ('loss_scale', 'dtype')} | dict(
        type='OptimWrapper'
    )


def groups_of(cfg):
    """Returns the parameter group of each parameter by name."""
    model = build_shallow(cfg)
    optimizer = build_optim_wrapper(model, on_cpu(cfg.optim_wrapper)).optimizer
    assert type(optimizer) is torch.optim.AdamW
    names = {param: key for key, param in model.named_parameters()}
    groups = {names[param]: group for group in optimizer.param_groups for param in group['params']}
    assert set(groups) == set(names.values())
    return groups


@pytest.mark.parametrize('name, lr, weight_decay', [
    (CASCADE.format('t', '1x'), 1e-4, 0.05), (CASCADE.format('t', 'ms-crop-3x'), 1e-4, 0.05),
    (DET_3X.format('t'), 1e-4, 0.05), (DET_VANILLA, 1e-4, 0.05), (SEG_VANILLA, 6e-5, 0.01),
    ('vmamba/mask-rcnn_convnext-t_fpn_1x_coco.py', 1e-4, 0.05),
])  # fmt: skip
def test_dense_recipes_exempt_norms_from_weight_decay(name, lr, weight_decay, load):
    groups = groups_of(load(name))
    assert {(group['lr'], group['betas']) for group in groups.values()} == {(lr, (0.9, 0.999))}
    spared = {key for key, group in groups.items() if group['weight_decay'] == 0}
    assert {group['weight_decay'] for key, group in groups.items() if key not in spared} == {weight_decay}
    assert spared == {key for key in groups if 'norm' in key}
    if 'vanilla' in name:
        assert 'backbone.layers.0.downsample.norm.weight' in spared
        assert 'backbone.patch_embed.2.weight' not in spared
    assert not [key for key in spared if not key.startswith('backbone.')]


@pytest.mark.parametrize('variant', ['t', 'vanilla-t'])
def test_imagenet_recipe_exempts_1d_parameters_from_weight_decay(variant, load):
    groups = groups_of(load(CLS.format(variant)))
    block = 'backbone.layers.3.blocks.0'
    spared = {key for key, group in groups.items() if group['weight_decay'] == 0}
    assert {(group['lr'], group['betas'], group['eps']) for group in groups.values()} == {(1e-3, (0.9, 0.999), 1e-8)}
    assert {groups[key]['weight_decay'] for key in set(groups) - spared} == {0.05}
    assert {f'{block}.norm.weight', f'{block}.op.Ds', 'head.fc.bias', 'backbone.patch_embed.0.bias'} <= spared
    # two-dimensional, with names that do not end in .bias: the released code decays these
    kept = {f'{block}.op.A_logs', f'{block}.op.dt_projs_bias', f'{block}.op.x_proj_weight', 'head.fc.weight'}
    assert kept <= set(groups) - spared


def test_imagenet_schedule_matches_the_recipe(load):
    cfg = load(CLS.format('t'))
    epoch = 5
    for part in cfg.param_scheduler:  # as mmengine converts it for epochs of 5 iterations
        assert part.pop('convert_to_iter_based')
        part.update(by_epoch=False, begin=part.begin * epoch, end=part.end * epoch)
    rates = learning_rates(cfg, 300 * epoch, epoch)
    assert rates[0] == pytest.approx(1e-6)
    assert max(rates) == pytest.approx(1e-3)
    assert rates[20 * epoch] == pytest.approx(1e-3, rel=1e-3)
    assert rates[160 * epoch] == pytest.approx((1e-3 + 1e-5) / 2, rel=1e-2)
    assert rates[-1] == pytest.approx(1e-5, rel=1e-2)
    assert cfg.train_cfg.max_epochs == 300
    assert cfg.train_dataloader.batch_size * 8 == cfg.auto_scale_lr.base_batch_size == 1024
    assert cfg.optim_wrapper.type == 'AmpOptimWrapper'
    assert cfg.optim_wrapper.clip_grad.max_norm == 5
    assert cfg.model.train_cfg.augments == [dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)]
    assert cfg.model.head.loss.label_smooth_val == 0.1
    assert [hook.momentum for hook in cfg.custom_hooks] == [1e-4]
    assert load(CLS.format('vanilla-t')).custom_hooks == []


@pytest.mark.parametrize('name', [DET_3X.format('t'), DET_3X.format('vanilla-s'), CASCADE.format('b', 'ms-crop-3x')])
def test_3x_schedule_matches_the_recipe(name, load):
    cfg = load(name)
    assert cfg.train_cfg.max_epochs == 36
    epoch = 1200
    rates = learning_rates(cfg, 36 * epoch, epoch)
    assert rates[0] == pytest.approx(1e-7)
    assert rates[999 : 27 * epoch] == pytest.approx([1e-4] * (27 * epoch - 999))
    assert rates[27 * epoch : 33 * epoch] == pytest.approx([1e-5] * (6 * epoch))
    assert rates[33 * epoch :] == pytest.approx([1e-6] * (3 * epoch))


def test_batches_and_drop_path():
    drop_path = {
        'imagenet': {'vanilla-t': .2, 'vanilla-s': .3, 'vanilla-b': .6, 't-s2l5': .2, 't': .2, 's': .3, 's-s1l20': .3,
                     'b': .6, 'b-s1l20': .5},
        'det': {'vanilla-t': .2, 'vanilla-s': .2, 'vanilla-b': .2, 't-s2l5': .2, 't': .2, 's': .3, 'b': .6},
        'seg': {'vanilla-t': .3, 'vanilla-s': .3, 'vanilla-b': .3, 't-s2l5': .2, 't': .2, 's': .3, 'b': .6},
    }  # fmt: skip
    for name, model in ZOO.items():
        stem = Path(name).stem
        if 'vmamba-' not in stem:
            continue
        cfg = Config.fromfile(ROOT / 'configs' / name)
        variant = stem.split('vmamba-')[1].split('_')[0]
        task = 'imagenet' if 'in1k' in stem else 'seg' if 'upernet' in stem else 'det'
        assert cfg.model.backbone.drop_path_rate == drop_path[task][variant], name
        gpus = {'imagenet': 8, 'seg': 4}.get(task, 16 if '16xb1' in stem else 8)
        batch = cfg.train_dataloader.batch_size * gpus
        assert batch == model['Metadata']['Batch Size'] == cfg.auto_scale_lr.base_batch_size, name
        if task == 'seg':
            assert cfg.tta_model.type == 'SegTTAModel'
            assert len(cfg.tta_pipeline) == 2
        if 'bf16' in stem:
            assert (cfg.optim_wrapper.type, cfg.optim_wrapper.dtype) == ('AmpOptimWrapper', 'bfloat16')


# Data


def test_multi_scale_crops(photo, load):
    train = load(DET_3X.format('t')).train_dataloader.dataset.pipeline
    assert [step.type for step in train] == [
        'LoadImageFromFile', 'LoadAnnotations', 'RandomFlip', 'RandomChoice', 'PackDetInputs'
    ]  # fmt: skip
    pipeline = Compose(train)
    heights = {min(pipeline(dict(photo))['inputs'].shape[1:]) for _ in range(8)}
    assert len(heights) > 1
    assert max(heights) <= 800


@pytest.mark.parametrize('size', [640, 896])
def test_larger_crops(size, photo, load):
    cfg = load(f'vmamba/vmamba-s_upernet_4xb4-160k_ade20k-{size}x{size}.py')
    assert tuple(cfg.model.data_preprocessor.size) == (size, size)
    assert cfg.train_dataloader.dataset.pipeline[3].crop_size == (size, size)
    assert cfg.model.decode_head.num_classes == 150
    for loader in (cfg.val_dataloader, cfg.test_dataloader):
        packed = Compose(loader.dataset.pipeline)(dict(photo))
        assert min(packed['inputs'].shape[1:]) == size
    assert len(Compose(cfg.tta_pipeline)(dict(photo))['inputs']) == 12


def test_imagenet_pipelines(photo, load):
    cfg = load(CLS.format('t'))
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        packed = Compose(loader.dataset.pipeline)(dict(img_path=photo['img_path'], gt_label=3))
        assert packed['inputs'].shape == (3, 224, 224)
        assert packed['data_samples'].gt_label.tolist() == [3]
