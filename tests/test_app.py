"""What demo/app.py puts on its page; it needs gradio, the extra `web`."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip('gradio')
pytest.importorskip('mmdet')

from mmvmamba import Vim, VMamba
from mmvmamba.engine.errors import LaunchError


@pytest.fixture(scope='module')
def app():
    spec = importlib.util.spec_from_file_location('app', Path(__file__).parents[1] / 'demo/app.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    'backbone', [VMamba(dict(dims=8, depths=(1, 1, 2, 1))), Vim(dict(embed_dims=16, depth=2))], ids=['VMamba', 'Vim']
)
def test_pixel_reads_most_around_itself(app, backbone):
    image = np.random.default_rng(0).integers(0, 256, (70, 130, 3), np.uint8)
    shown = app.read_at(backbone.eval(), image, 100, 20)
    assert shown.shape == image.shape
    brightness = (shown.astype(float) - 0.4 * image).sum(-1)
    assert brightness[4:36, 84:116].mean() > brightness[40:, :64].mean()


def test_backbone_without_scans_is_one_sentence(app):
    with pytest.raises(LaunchError, match='Conv2d has no selective scan that a pixel could read through'):
        app.read_at(app.torch.nn.Conv2d(3, 1, 1), np.zeros((64, 64, 3), np.uint8), 1, 1)


def test_page_offers_the_shipped_configs(app):
    page = app.build_page(app.parse_args(['mine.py']))
    [choices] = [block.choices for block in page.blocks.values() if isinstance(block, app.gr.Dropdown)]
    names = [value for _, value in choices]
    assert names[0] == 'mine.py'
    assert 'configs/demo/mask-rcnn_vmamba-demo_fpn_coins.py' in names and not any('_base_' in name for name in names)
