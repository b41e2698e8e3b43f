"""Runs every command, demo and library function that accepts a checkpoint on every layout of a released file."""

import importlib.util
import re
import sys
from argparse import Namespace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from mmengine.registry import DefaultScope
from mmengine.runner import CheckpointLoader, load_checkpoint
from mmengine.runner.checkpoint import load_from_local

from mmvmamba import Vim, VMamba
from mmvmamba.checkpoint import CheckpointError, read_checkpoint, unwrap_state_dict

from . import test_conversion as released
from .test_conversion import ARCHS, VIM, build, classifier, first_names, snapshot, vim_classifier

for library in ('mmdet', 'mmseg', 'mmpretrain'):
    pytest.importorskip(library)

from mmvmamba.analysis.networks import build_backbone  # noqa: E402
from mmvmamba.engine.arguments import load_config  # noqa: E402
from mmvmamba.engine.inference import load_inferencer  # noqa: E402
from mmvmamba.engine.runner import build_runner  # noqa: E402

ROOT = Path(__file__).parents[1]
BACKBONES = {
    'VMamba': dict(type='VMamba', arch=ARCHS['vanilla_tiny'], out_indices=(3,)),
    'Vim': dict(type='Vim', arch=VIM, pooling='middle'),
    'dense': dict(type='VMamba', arch=ARCHS['vanilla_tiny']),
}

HEAD = (
    "custom_imports = dict(imports=['mmvmamba'], allow_failed_imports=False)\ntest_evaluator, test_cfg = [], dict()\n"
)
LOADER = 'test_dataloader = dict(num_workers=0, sampler=dict(type="DefaultSampler", shuffle=False), dataset={})\n'
CONFIGS = {
    'classifier': """
default_scope = 'mmpretrain'
model = dict(
    type='ImageClassifier', backbone={backbone}, neck={neck},
    data_preprocessor=dict(mean=[127.0] * 3, std=[60.0] * 3),
    head=dict(type='LinearClsHead', num_classes=5, in_channels={channels}, topk=1))
"""
    + LOADER.format("dict(type='CustomDataset', classes=list('abcde'), pipeline=[dict(type='PackInputs')])"),
    'detector': """
default_scope = 'mmdet'
model = dict(
    type='RetinaNet', backbone={backbone},
    data_preprocessor=dict(type='DetDataPreprocessor', mean=[127.0] * 3, std=[60.0] * 3),
    neck=dict(type='FPN', in_channels=[8, 16, 32, 64], out_channels=8, num_outs=4, norm_cfg=dict(type='BN')),
    bbox_head=dict(type='RetinaHead', num_classes=2, in_channels=8, feat_channels=8, stacked_convs=1,
        anchor_generator=dict(type='AnchorGenerator', scales=[2], ratios=[1.0], strides=[4, 8, 16, 32])))
visualizer = dict(type='DetLocalVisualizer')
"""
    + LOADER.format(
        "dict(type='CocoDataset', ann_file='', metainfo=dict(classes=('a', 'b')), "
        "pipeline=[dict(type='LoadImageFromFile'), dict(type='PackDetInputs')])"
    ),
    'segmentor': """
default_scope = 'mmseg'
model = dict(
    type='EncoderDecoder', backbone={backbone},
    data_preprocessor=dict(type='SegDataPreProcessor', mean=[127.0] * 3, std=[60.0] * 3),
    decode_head=dict(
        type='FCNHead', in_channels=64, in_index=-1, channels=8, num_classes=2, norm_cfg=dict(type='BN')),
    test_cfg=dict(mode='whole'))
visualizer = dict(type='SegLocalVisualizer')
"""
    + LOADER.format(
        "dict(type='BaseSegDataset', pipeline=["
        "dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), dict(type='PackSegInputs')])"
    ),
}


save = released.save


@pytest.fixture
def yacs(monkeypatch):
    """mmengine unpickles files itself, which requires yacs for VMamba files."""
    package, config = ModuleType('yacs'), ModuleType('yacs.config')
    config.CfgNode = type('CfgNode', (dict,), {'__module__': 'yacs.config', '__qualname__': 'CfgNode'})
    monkeypatch.setitem(sys.modules, 'yacs', package)
    monkeypatch.setitem(sys.modules, 'yacs.config', config)


@pytest.fixture
def stock_loader(monkeypatch):
    """The tools make mmengine read files through `read_checkpoint`; this fixture restores mmengine's own loader."""
    monkeypatch.setattr(CheckpointLoader, '_schemes', {'': load_from_local})


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(kind, backbone):
        scope = {'classifier': 'mmpretrain', 'detector': 'mmdet', 'segmentor': 'mmseg'}[kind]
        DefaultScope.get_instance(str(tmp_path), scope_name=scope)  # as in a separate process
        neck = dict(type='GlobalAveragePooling') if backbone == 'VMamba' else None
        channels = 16 if backbone == 'Vim' else 64
        path = tmp_path / f'{kind}.py'
        path.write_text(HEAD + CONFIGS[kind].format(backbone=BACKBONES[backbone], neck=neck, channels=channels))
        return path

    return write


def script(path):
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def loaded_config(config):
    return load_config(config, work_dir='work')


# Entry points of this package: (config, checkpoint) -> the loaded model or its backbone


def runner(config, checkpoint, least):
    cfg = loaded_config(config)
    cfg.load_from = str(checkpoint)
    cfg.experiment_name = str(config)  # the default name, a time in seconds, is not unique here
    runner = build_runner(cfg, least)
    runner.load_or_resume()
    return runner.model


def web_page(config, checkpoint, monkeypatch):
    if importlib.util.find_spec('gradio') is None:
        gradio = ModuleType('gradio')
        gradio.Blocks = gradio.SelectData = object
        monkeypatch.setitem(sys.modules, 'gradio', gradio)
    _, inferencer = script('demo/app.py').load_model(str(config), str(checkpoint), 'cpu')
    return inferencer.model


def benchmark(config, checkpoint):
    args = Namespace(cfg_options=None, device='cpu', model_only=False)
    return script('tools/analysis_tools/benchmark.py').Run(f'{config}={checkpoint}', args, None).model


def converted(config, checkpoint):
    script('tools/model_converters/convert_checkpoint.py').main([str(checkpoint), 'clean.pth', '--config', str(config)])
    tensors = torch.load('clean.pth', weights_only=True)['state_dict']
    model = ModuleType('model')  # only its tensors are compared
    model.state_dict = lambda: tensors
    return model


def initialised(config, checkpoint):
    backbone = dict(loaded_config(config).model.backbone)
    backbone = {'VMamba': VMamba, 'Vim': Vim}[backbone.pop('type')](
        **backbone, init_cfg=dict(type='Pretrained', checkpoint=str(checkpoint))
    )
    backbone.init_weights()
    return backbone


OURS = {
    'tools/test.py': lambda config, file, _: runner(config, file, 1.0),
    'tools/train.py, load_from': lambda config, file, _: runner(config, file, 0.5),
    'demo/image_demo.py': lambda config, file, _: load_inferencer(loaded_config(config), str(file), 'cpu').model,
    'demo/app.py': web_page,
    'tools/deployment/export.py': lambda config, file, _: script('tools/deployment/export.py').build_model(
        loaded_config(config), str(file)
    ),
    'tools/analysis_tools/benchmark.py': lambda config, file, _: benchmark(config, file),
    'tools/analysis_tools/{activation_map,receptive_field}.py': lambda config, file, _: build_backbone(
        str(config), str(file)
    ),
    'tools/model_converters/convert_checkpoint.py': lambda config, file, _: converted(config, file),
    'init_cfg': lambda config, file, _: initialised(config, file),
}

# Entry points of the libraries, which read and load the file themselves


def inferencer(config, checkpoint, kind):
    if kind == 'classifier':
        from mmpretrain import ImageClassificationInferencer

        return ImageClassificationInferencer(str(config), str(checkpoint), device='cpu').model
    if kind == 'detector':
        from mmdet.apis import DetInferencer

        return DetInferencer(str(config), str(checkpoint), device='cpu').model
    from mmseg.apis import MMSegInferencer

    return MMSegInferencer(str(config), str(checkpoint), device='cpu').model


def init_model(config, checkpoint, kind):
    if kind == 'classifier':
        from mmpretrain import get_model

        return get_model(str(config), str(checkpoint), device='cpu')
    if kind == 'detector':
        from mmdet.apis import init_detector

        return init_detector(str(config), str(checkpoint), device='cpu')
    from mmseg.apis import init_model

    return init_model(str(config), str(checkpoint), device='cpu')


def built(config):
    cfg = loaded_config(config)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        from mmengine.registry import MODELS

        return MODELS.build(cfg.model)


def loaded_by_mmengine(config, checkpoint, part=None):
    model = built(config)
    load_checkpoint(model.backbone if part else model, str(checkpoint), map_location='cpu')
    return model.backbone if part else model


def loaded_by_torch(config, checkpoint):
    model = built(config)
    model.load_state_dict(unwrap_state_dict(read_checkpoint(checkpoint)), strict=True)
    return model


LIBRARIES = {
    'the inferencer of the library': inferencer,
    'init_detector, init_model, get_model': init_model,
    'mmengine.runner.load_checkpoint': lambda config, file, _: loaded_by_mmengine(config, file),
    'torch, strict': lambda config, file, _: loaded_by_torch(config, file),
}

# Layouts of released files: the backbone, and a function that writes the file and returns the expected tensors


def expected_classifier(tensors, norm):
    names = {'head.fc.': ('classifier.head.', 'head.'), f'backbone.{norm}': ('classifier.norm.', norm)}
    expected = {}
    for name, tensor in tensors.items():
        new = next((new for new, old in names.items() if name.startswith(old)), None)
        expected[new + name.rpartition('.')[2] if new else f'backbone.{name}'] = tensor
    return expected


def vmamba_file(save, layout, rename=dict):
    tensors = classifier('vanilla_tiny')
    return save(rename(tensors), layout), expected_classifier(tensors, 'outnorm3.')


def vim_file(save):
    tensors = vim_classifier()
    return save(tensors, 'argparse'), expected_classifier(tensors, 'norm_f.')


def both_weights_file(save):
    """The averaged weights, `model_ema`, are loaded only on request."""
    tensors = classifier('vanilla_tiny')
    path = save(tensors, 'ema')
    return path, expected_classifier({name: torch.zeros_like(tensor) for name, tensor in tensors.items()}, 'outnorm3.')


def whole_file(save, kind, rename=dict):
    torch.manual_seed(2)
    expected = snapshot(build(kind, BACKBONES['dense']))
    inner = rename({name[9:]: tensor for name, tensor in expected.items() if name.startswith('backbone.')})
    others = {name: tensor for name, tensor in expected.items() if not name.startswith('backbone.')}
    return save({f'backbone.{name}': tensor for name, tensor in inner.items()} | others, 'mmengine'), expected


LAYOUTS = {
    'VMamba classifier': ('classifier', 'VMamba', lambda save: vmamba_file(save, 'yacs')),
    'VMamba classifier, first names': ('classifier', 'VMamba', lambda save: vmamba_file(save, 'yacs', first_names)),
    'VMamba classifier, tensors alone': ('classifier', 'VMamba', lambda save: vmamba_file(save, 'bare')),
    'VMamba classifier with averaged weights': ('classifier', 'VMamba', both_weights_file),
    'Vim classifier': ('classifier', 'Vim', vim_file),
    'detector': ('detector', 'dense', lambda save: whole_file(save, 'detector')),
    'detector, first names': ('detector', 'dense', lambda save: whole_file(save, 'detector', first_names)),
    'segmentor': ('segmentor', 'dense', lambda save: whole_file(save, 'segmentor')),
    'segmentor, first names': ('segmentor', 'dense', lambda save: whole_file(save, 'segmentor', first_names)),
}


def differing(model, expected):
    """Returns the keys that differ from the file. A bare backbone is compared with the backbone of the file."""
    found = model.state_dict()
    if not any(name.startswith('backbone.') for name in found):
        expected = {name[9:]: tensor for name, tensor in expected.items() if name.startswith('backbone.')}
    assert expected.keys() == {name for name in found if name in expected or 'num_batches' not in name}
    return [name for name, tensor in expected.items() if not torch.equal(found[name], tensor.view_as(found[name]))]


@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize('entry', OURS)
def test_tools_and_demos_load_released_files(entry, layout, save, config, monkeypatch):
    kind, backbone, write = LAYOUTS[layout]
    file, expected = write(save)
    assert not differing(OURS[entry](config(kind, backbone), file, monkeypatch), expected)


@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize('entry', LIBRARIES)
def test_libraries_load_released_files(entry, layout, save, config, stock_loader, yacs):
    kind, backbone, write = LAYOUTS[layout]
    file, expected = write(save)
    assert not differing(LIBRARIES[entry](config(kind, backbone), file, kind), expected)


@pytest.mark.parametrize('layout', [layout for layout in LAYOUTS if 'classifier' in layout])
def test_mmengine_loads_released_classifiers_into_a_backbone(layout, save, config, stock_loader, yacs):
    kind, backbone, write = LAYOUTS[layout]
    file, expected = write(save)
    assert not differing(loaded_by_mmengine(config(kind, backbone), file, 'backbone'), expected)


@pytest.mark.parametrize('kind', ['detector', 'segmentor'])
@pytest.mark.parametrize('entry', list(LIBRARIES))
def test_error_for_a_classifier_in_a_detector_names_the_conversion_command(
    entry,
    kind,
    save,
    config,
    stock_loader,
    yacs,
):
    """Without this package's tools, mmdet has no hook that renames keys."""
    file, _ = vmamba_file(save, 'yacs')
    path = config(kind, 'dense')
    with pytest.raises(CheckpointError, match=r"no tensor whose name starts with 'backbone\.'") as error:
        LIBRARIES[entry](path, file, kind)
    [command] = re.findall(r'python (\S+) FILE OUT\.pth', str(error.value))
    script(command).main([str(file), 'clean.pth', '--config', str(config('classifier', 'VMamba'))])
    model = loaded_by_mmengine(config(kind, 'dense'), 'clean.pth')
    expected = classifier('vanilla_tiny')
    own = {name: tensor for name, tensor in model.backbone.state_dict().items() if not name.startswith('outnorm')}
    assert all(torch.equal(tensor, expected[name]) for name, tensor in own.items())
