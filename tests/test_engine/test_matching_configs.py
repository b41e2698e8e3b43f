from pathlib import Path

import pytest
import torch

pytest.importorskip('mmseg')

from mmengine.registry import MODELS, DefaultScope

from mmvmamba.checkpoint import CheckpointError
from mmvmamba.engine.arguments import load_config
from mmvmamba.engine.matching_configs import matching_configs

ROOT = Path(__file__).parents[2]
DEMO, VIM, OTHER = (
    str(ROOT / 'configs/demo' / name)
    for name in ('vmamba-demo_upernet_coins.py', 'vim-demo_upernet_coins.py', 'r18_upernet_coins.py')
)
CONFIGS = [OTHER, VIM, DEMO]


@pytest.fixture(scope='module')
def state_dict():
    cfg = load_config(DEMO)
    with DefaultScope.overwrite_default_scope('mmseg'):
        return MODELS.build(cfg.model).state_dict()


@pytest.fixture
def save(tmp_path, state_dict):
    def save(**meta):
        torch.save(dict(state_dict=state_dict, meta=meta), tmp_path / 'model.pth')
        return str(tmp_path / 'model.pth')

    return save


def own(tmp_path, text):
    (tmp_path / 'mine.py').write_text(text)
    return str(tmp_path / 'mine.py')


def test_config_that_the_checkpoint_names_is_found_without_comparing_others(save):
    shares = []
    file = save(experiment_name='vmamba-demo_upernet_coins_20260101_120000')
    assert matching_configs(file, CONFIGS, report=shares.append) == ([DEMO], [])
    assert not shares


@pytest.mark.parametrize('meta', [{}, dict(experiment_name='vim-demo_upernet_coins_20260101_120000')])
def test_all_configs_are_compared_if_the_named_one_is_unknown_or_differs(save, meta):
    shares = []
    assert matching_configs(save(**meta), CONFIGS, report=shares.append) == ([DEMO], [])
    assert shares == [0, 1 / 3, 2 / 3]


def test_own_config_that_fits_comes_first(save, tmp_path):
    mine = own(tmp_path, f'_base_ = {DEMO!r}')
    file = save(experiment_name='vmamba-demo_upernet_coins_20260101_120000')
    assert matching_configs(file, CONFIGS, [mine]) == ([mine, DEMO], [])


@pytest.mark.parametrize(
    'text, reason',
    [
        (f'_base_ = {OTHER!r}', 'does not fit the model of this config'),
        (f'_base_ = {DEMO!r}\nmodel = dict(decode_head=dict(num_classes=5))', 'conv_seg'),
        (f'_base_ = {DEMO!r}\nmodel = dict(backbone=dict(type="Nothing"))', 'Nothing'),
        ('1 / 0', 'ZeroDivisionError'),
        ("default_scope = 'mmseg'", 'model'),
    ],
    ids=['other model', 'other classes', 'unknown type', 'broken file', 'no model'],
)
def test_own_config_that_does_not_fit_is_explained(save, tmp_path, text, reason):
    mine = own(tmp_path, text)
    file = save(experiment_name='vmamba-demo_upernet_coins_20260101_120000')
    found, [sentence] = matching_configs(file, CONFIGS, [mine])
    assert found == [DEMO]
    assert sentence.startswith(mine) and reason in sentence and '\n' not in sentence


def test_missing_own_config_is_explained(save):
    _, [sentence] = matching_configs(save(), [], ['nowhere.py'])
    assert 'nowhere.py does not exist' in sentence


def test_checkpoint_that_cannot_be_read_is_an_error(tmp_path):
    (tmp_path / 'model.pth').write_text('text')
    with pytest.raises(CheckpointError):
        matching_configs(str(tmp_path / 'model.pth'), CONFIGS)
