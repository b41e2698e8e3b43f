"""Tests the content that demo/app.py shows. `test_web_page.py` tests the page in a browser."""

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip('mmdet')

from mmvmamba import VMamba
from mmvmamba.checkpoint import CheckpointError
from mmvmamba.engine.errors import DataError, LaunchError


@pytest.fixture(scope='module')
def app():
    with pytest.MonkeyPatch.context() as patch:
        if importlib.util.find_spec('gradio') is None:
            gradio = ModuleType('gradio')
            gradio.Blocks = gradio.Request = gradio.SelectData = object
            patch.setitem(sys.modules, 'gradio', gradio)
        return load()


def load():
    spec = importlib.util.spec_from_file_location('app', Path(__file__).parents[1] / 'demo/app.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def classifier(head, scores, label, classes=('a', 'b', 'c')):
    """Returns an inferencer and its prediction."""
    models = pytest.importorskip('mmpretrain.models')
    structures = pytest.importorskip('mmpretrain.structures')
    built = getattr(models, head)(num_classes=len(scores), in_channels=4)
    sample = structures.DataSample().set_pred_score(torch.tensor(scores)).set_pred_label(torch.tensor(label))
    return SimpleNamespace(model=SimpleNamespace(head=built), classes=classes), sample


def test_summary_of_a_classifier(app):
    assert app.summary(*classifier('LinearClsHead', [0.1, 0.7, 0.2], [1]), 0.9) == 'b (0.70)'
    assert app.summary(*classifier('LinearClsHead', [0.1, 0.7, 0.2], [1], None), 0.9) == '1 (0.70)'


def test_summary_of_a_multi_label_classifier(app):
    """Shows all labels with at least the score set on the page, regardless of the head's threshold."""
    inferencer, sample = classifier('MultiLabelLinearClsHead', [0.4, 0.7, 0.2], [1])
    assert app.summary(inferencer, sample, 0.3) == 'b (0.70), a (0.40)'
    assert app.summary(inferencer, sample, 0.5) == 'b (0.70)'
    assert app.summary(inferencer, sample, 0.9) == 'nothing above 0.90'


def test_heat_map_marks_the_clicked_pixel(app):
    image = np.zeros((70, 130, 3), np.uint8)
    shown = app.draw_attention(VMamba(dict(dims=8, depths=(1, 1, 2, 1))).eval(), image, 100, 20)
    assert shown.shape == image.shape and shown.any()
    assert (shown[20, 92:109] == 255).all(), 'a white cross'


def test_large_images_are_reduced_with_a_note(app):
    reduced, note = app.reduce(np.zeros((2800, 7000, 4), np.uint16))
    assert reduced.shape == (410, 1024, 4) and reduced.dtype == np.uint16
    assert note == 'Reduced from 7000 x 2800 to 1024 x 410 pixels; image_demo.py uses the full size.'
    assert app.reduce(np.zeros((1, 20000), np.uint8))[0].shape == (1, 1024)


def test_images_of_the_largest_size_are_unchanged(app):
    image = np.zeros((1024, 1024, 3), np.uint8)
    assert app.reduce(image) == (image, '') and app.reduce(image)[0] is image


@pytest.mark.parametrize('kind', [LaunchError, DataError, CheckpointError])
def test_known_errors_become_text_without_a_traceback(app, capsys, kind):
    def fail():
        raise kind('The file is empty.')

    assert app.attempt(fail) == (None, 'The file is empty.')
    assert not capsys.readouterr().err


def test_unexpected_errors_become_text_too(app, capsys):
    result, text = app.attempt(lambda: {}['palette'])
    assert result is None
    assert text == "Unexpected error, KeyError: 'palette'. Details are in the terminal."
    assert 'Traceback' in capsys.readouterr().err


def test_texts_on_the_page_are_not_markup(app):
    assert app.status(error='<b>.png') == '<p class="error" role="alert">&lt;b&gt;.png</p>'
    assert app.status('<b>') == '<p>&lt;b&gt;</p>'


def test_checkpoint_of_the_demo_comes_before_newer_ones(app, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for age, folder in enumerate(['mine/newest', 'mine/older', f'demo/{app.DEMO}']):
        file = tmp_path / 'work_dirs' / folder / 'iter_1.pth'
        file.parent.mkdir(parents=True)
        file.touch()
        os.utime(file, (1000 - age, 1000 - age))
        (file.parent / 'last_checkpoint').write_text(str(file))
    (tmp_path / 'work_dirs/mine/deleted').mkdir()
    (tmp_path / 'work_dirs/mine/deleted/last_checkpoint').write_text('gone.pth')
    labels = [label for label, _ in app.saved_checkpoints()]
    assert labels == [f'demo/{app.DEMO}', 'mine/newest', 'mine/older']


CONFIG = """
_base_ = ['{root}/configs/your_data/four_bands.py']
model = dict(backbone=dict(arch=dict(dims=8, depths=(1, 1, 1, 1))), decode_head=dict(in_channels=[8, 16, 32, 64]))
"""


def test_images_are_read_and_drawn_as_the_config_loads_them(app, tmp_path):
    """Four bands of 16 bits, which OpenCV would convert to three of 8 bits."""
    tifffile = pytest.importorskip('tifffile')
    pytest.importorskip('mmseg')
    from mmengine.config import Config
    from mmengine.registry import MODELS

    from mmvmamba.engine.libraries import register_modules

    (tmp_path / 'config.py').write_text(CONFIG.format(root=Path(__file__).parents[1]))
    register_modules('mmseg')
    model = MODELS.build(dict(Config.fromfile(tmp_path / 'config.py').model, _scope_='mmseg'))
    torch.save(dict(state_dict=model.state_dict(), meta={}), tmp_path / 'model.pth')
    image = np.random.default_rng(0).integers(0, 4000, (60, 80, 4), np.uint16)
    tifffile.imwrite(tmp_path / 'image.tif', image, photometric='rgb')
    read, inferencer = app.load_model(str(tmp_path / 'config.py'), str(tmp_path / 'model.pth'), 'cpu')
    assert (read(tmp_path / 'image.tif') == image).all()
    [sample] = app.predict(inferencer, [read(tmp_path / 'image.tif')])
    assert app.draw(inferencer, image, sample, 0.3, 0.5).shape == (60, 80, 3)
    assert app.summary(inferencer, sample, 0.3)
