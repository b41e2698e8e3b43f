"""Runs the analysis tools from the command line on two images and the smallest models."""

import importlib.util
import runpy
from pathlib import Path

import numpy as np
import pytest

cv2 = pytest.importorskip('cv2')
pytest.importorskip('matplotlib')
pytest.importorskip('mmseg')

ROOT = Path(__file__).parents[1]
CONFIG = """
custom_imports = dict(imports=['mmvmamba'], allow_failed_imports=False)
default_scope = 'mmseg'
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(type='SegDataPreProcessor', test_cfg=dict(size_divisor=32)),
    backbone={backbone},
    decode_head=dict(
        type='FCNHead', in_channels={channels}, in_index=-1, channels=8, num_convs=1, num_classes=2,
        norm_cfg=dict(type='BN')),
    test_cfg=dict(mode='whole'))
test_dataloader = dict(dataset=dict(
    type='BaseSegDataset',
    pipeline=[dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), dict(type='PackSegInputs')]))
"""
BACKBONES = {
    'vmamba': ("dict(type='VMamba', arch=dict(dims=8, depths=(1, 1, 2, 1)))", 64),
    'vim': ("dict(type='Vim', arch=dict(embed_dims=16, depth=2), img_size=64)", 16),
    'resnet': ("dict(type='ResNetV1c', depth=18)", 512),
}


def tool(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / 'tools' / 'analysis_tools' / f'{name}.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return lambda *arguments: module.main([str(argument) for argument in arguments])


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp('analysis')
    (folder / 'images').mkdir()
    for number in range(2):
        picture = np.random.default_rng(number).integers(256, size=(70, 100, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f'images/{number}.png'), picture)
    for name, (backbone, channels) in BACKBONES.items():
        (folder / f'{name}.py').write_text(CONFIG.format(backbone=backbone, channels=channels))
    return folder


def save_weights(files, name):
    import torch

    from mmvmamba.analysis.networks import build_backbone

    torch.manual_seed(7)
    path = files / f'{name}.pth'
    state = build_backbone(str(files / f'{name}.py')).state_dict()
    torch.save({'state_dict': {f'backbone.{key}': value for key, value in state.items()}}, path)
    return path


def test_receptive_field(files, tmp_path, capsys):
    networks = [f'{files}/{name}.py={save_weights(files, name)}' for name in ('vmamba', 'resnet')]
    out = tmp_path / 'field.png'
    tool('receptive_field')('--images', files / 'images', '--size', 64, '--device', 'cpu', '--out', out, *networks)
    fields = np.load(tmp_path / 'field.npz')
    assert set(fields) == {
        f'{name}, {weights}' for name in ('vmamba', 'resnet') for weights in ('random weights', 'trained')
    }
    for name in ('vmamba', 'resnet'):
        before, after = (fields[f'{name}, {weights}'] for weights in ('random weights', 'trained'))
        assert before.shape == (64, 64) and before.min() >= 0 and before.max() > 0
        assert not np.array_equal(before, after), 'the weights of the file are in use'
    assert out.stat().st_size > 0
    printed = capsys.readouterr().out
    assert all(f'{share} %'.replace(' ', '') in printed for share in (20, 30, 50, 99))


def test_titles_of_receptive_fields_have_at_most_two_lines():
    module = runpy.run_path(str(ROOT / 'tools/analysis_tools/receptive_field.py'))
    for config in ROOT.glob('configs/demo/*.py'):
        title = module['wrapped'](config.stem)
        assert title.replace('\n', '') == config.stem
        assert title.count('\n') <= 1


def test_receptive_field_rejects_a_network_named_twice(files, tmp_path):
    with pytest.raises(SystemExit, match='ResNet-50 is given twice'):
        tool('receptive_field')('--images', files / 'images', 'ResNet-50=a.pth', 'ResNet-50=b.pth')


@pytest.mark.parametrize('name, traversals', [('vmamba', 4), ('vim', 2)])
def test_activation_map(files, tmp_path, name, traversals):
    out, steps = tmp_path / 'map.png', tmp_path / 'steps.png'
    queries = ['--query', 0, 0, '--query', 99, 69]
    picture = files / 'images/0.png'
    tool('activation_map')(
        picture, files / f'{name}.py', *queries, '--stage', 0, '--out', out, '--statistics', steps, '--device', 'cpu'
    )
    saved = np.load(tmp_path / 'map.npz')
    height, width = (16, 24) if name == 'vmamba' else (4, 6)  # 70 x 100 is resized to 64 x 96
    assert saved['weights'].shape[:4] == (2, traversals, height, width)
    assert saved['positions'].tolist() == [[0, 0], [height - 1, width - 1]]
    assert out.stat().st_size > 0 and steps.stat().st_size > 0


def test_maps_of_a_wide_image_are_below_each_other(files, tmp_path):
    """Each panel is then about as wide as a page divided by the number of queries."""
    cv2.imwrite(str(tmp_path / 'wide.png'), np.zeros((64, 160, 3), np.uint8))
    out = tmp_path / 'maps.png'
    query = ['--query', 20, 20, '--query', 100, 20]
    tool('activation_map')(tmp_path / 'wide.png', files / 'vmamba.py', *query, '--out', out, '--device', 'cpu')
    height, width = cv2.imread(str(out)).shape[:2]
    assert height > width


def test_activation_map_rejects_invalid_arguments(files, tmp_path):
    run = tool('activation_map')
    picture, vmamba = files / 'images/0.png', files / 'vmamba.py'
    for arguments, message in (
        ((picture, files / 'resnet.py'), r'resnet\.py has no selective scans'),
        ((picture, vmamba, '--stage', 2, '--block', 2), r'no block 2 in stage 2: the stages have 1, 1, 2, 1 blocks'),
        ((picture, vmamba, '--query', 100, 0), r'--query 100 0 lies outside'),
        ((files / 'vmamba.py', vmamba), r'vmamba\.py is not an image'),
        ((picture, 'Swim-T'), r'Swim-T is neither a config file \(\.py\) nor one of VMamba-T'),
    ):
        with pytest.raises(SystemExit, match=message):
            run(*arguments, '--out', tmp_path / 'map.png')


@pytest.mark.parametrize('options', [(), ('--model-only', '--batch-size', 2)], ids=['whole', 'model only'])
def test_benchmark(files, capsys, options):
    configs = [files / f'{name}.py' for name in ('vmamba', 'resnet')]
    counts = ('--batches', 2, '--warmup', 1, '--device', 'cpu')
    tool('benchmark')('--images', files / 'images', *counts, *options, *configs)
    printed = capsys.readouterr().out
    rows = {line.split()[0]: line.split()[1:] for line in printed.splitlines() if line.startswith(('vmamba', 'resnet'))}
    assert set(rows) == {'vmamba', 'resnet'}
    for speed, median, high, _ in rows.values():
        batch = 2 if options else 1
        assert 0 < float(median) <= float(high)
        # the mean of two batches equals their median
        assert float(speed) == pytest.approx(1e3 * batch / float(median), rel=0.01)


def test_benchmark_rejects_invalid_arguments(files, tmp_path):
    with pytest.raises(SystemExit, match=r'image folder .* contains no image'):
        tool('benchmark')('--images', tmp_path, files / 'vmamba.py')
