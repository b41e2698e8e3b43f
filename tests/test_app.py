"""Tests the content that demo/app.py shows; the page itself needs gradio (extra `web`)."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip('mmdet')

from mmvmamba import Vim, VMamba
from mmvmamba.engine.errors import LaunchError


@pytest.fixture(scope='module')
def app():
    with pytest.MonkeyPatch.context() as patch:
        if importlib.util.find_spec('gradio') is None:
            gradio = ModuleType('gradio')
            gradio.Blocks, gradio.Error = object, RuntimeError
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
    assert app.summary(inferencer, sample, 0.9) == 'nothing'


@pytest.mark.parametrize(
    'backbone', [VMamba(dict(dims=8, depths=(1, 1, 2, 1))), Vim(dict(embed_dims=16, depth=2))], ids=['VMamba', 'Vim']
)
def test_pixel_depends_mostly_on_its_neighbourhood(app, backbone):
    image = np.random.default_rng(0).integers(0, 256, (70, 130, 3), np.uint8)
    shown = app.read_at(backbone.eval(), image, 100, 20)
    assert shown.shape == image.shape
    brightness = (shown.astype(float) - 0.4 * image).sum(-1)
    assert brightness[4:36, 84:116].mean() > brightness[40:, :64].mean()


def test_backbone_without_scans_raises_a_one_sentence_error(app):
    with pytest.raises(LaunchError, match='Conv2d has no selective scan whose influence could be shown'):
        app.read_at(app.torch.nn.Conv2d(3, 1, 1), np.zeros((64, 64, 3), np.uint8), 1, 1)


def test_models_with_other_channels_raise_a_one_sentence_error(app):
    with pytest.raises(LaunchError, match='shown for images of 3 channels, not 4'):
        app.read_at(VMamba(dict(dims=8, depths=(1, 1, 1, 1)), in_channels=4), np.zeros((64, 64, 3), np.uint8), 1, 1)


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


def test_page_lists_the_shipped_configs(app):
    pytest.importorskip('gradio')
    page = app.build_page(app.parse_args(['mine.py']))
    [choices] = [block.choices for block in page.blocks.values() if isinstance(block, app.gr.Dropdown)]
    names = [value for _, value in choices]
    assert names[0] == 'mine.py'
    assert 'configs/demo/mask-rcnn_vmamba-demo_fpn_coins.py' in names and not any('_base_' in name for name in names)
