"""Settings on which the libraries fail with a traceback are rejected when a config is read."""

import pytest
from mmengine.config import Config

from mmvmamba.engine.config_values import check_config_values
from mmvmamba.engine.errors import LaunchError


def config(metainfo=None, scope='mmseg', **preprocessor):
    dataset = dict(type='ConcatDataset', datasets=[dict(type='BaseSegDataset', metainfo=metainfo or {})])
    model = dict(data_preprocessor=dict(preprocessor))
    return Config(dict(default_scope=scope, model=model, val_dataloader=dict(dataset=dataset)))


def test_fewer_colours_than_classes_are_rejected():
    sentence = (
        r'metainfo\.palette of val_dataloader\.dataset\.datasets\.0 has 1 colour, but metainfo\.classes has 2 names: '
        r'give one colour for each class, or set palette=None \(mmseg: palette=\[\]\) for random colours'
    )
    with pytest.raises(LaunchError, match=sentence):
        check_config_values(config(dict(classes=('a', 'b'), palette=[(255, 128, 0)])))


@pytest.mark.parametrize('palette', [None, [], [(1, 2, 3)] * 2, [(1, 2, 3)] * 80, 'random', (1, 2, 3)])
def test_other_palettes_are_accepted(palette):
    check_config_values(config(dict(classes=('a', 'b'), palette=palette)))
    check_config_values(Config())


@pytest.mark.parametrize('scope', ['mmdet', 'mmseg'])
def test_means_of_other_numbers_of_channels_are_rejected(scope):
    with pytest.raises(
        LaunchError, match=r'model\.data_preprocessor\.mean has 4 values, .* mean=None and std=None, and'
    ):
        check_config_values(config(scope=scope, mean=[0.0] * 4, std=[1.0] * 4))
    with pytest.raises(LaunchError, match=r'model\.data_preprocessor\.std has 2 values'):
        check_config_values(config(scope=scope, mean=[0.0], std=[1.0] * 2))


def test_means_that_the_libraries_support_are_accepted():
    check_config_values(config(mean=[0.0] * 3, std=[1.0] * 3))
    check_config_values(config(mean=[0.0], std=[1.0]))
    check_config_values(config(mean=None, std=None))
    check_config_values(config(scope='mmpretrain', mean=[0.0] * 4, std=[1.0] * 4))
