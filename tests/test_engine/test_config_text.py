"""A saved config is read as data, and compared setting by setting."""

from pathlib import Path

import pytest
from mmengine.config import Config

from mmvmamba.engine.config_text import UNSET, differences, parse_config

CONFIGS = sorted((Path(__file__).parents[2] / 'configs').glob('*/*.py'))[::9]


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_the_text_of_a_config_gives_its_values(path):
    cfg = Config.fromfile(path)
    assert not list(differences(parse_config(cfg.pretty_text), as_data(cfg.to_dict()), 'cfg'))


def as_data(node):
    if isinstance(node, dict):
        return {str(key): as_data(value) for key, value in node.items()}
    if isinstance(node, (list, tuple)):
        return [as_data(item) for item in node]
    return node


@pytest.mark.parametrize(
    'text',
    [
        None,
        7,
        'a = (',
        'a = ' + '(' * 5000,
        'a = ' + '-' * 100_000 + '1',
        'a = 1\0',
        'a = 1\n' * 200_000,
    ],
    ids=['none', 'number', 'syntax', 'nested', 'signs', 'null', 'long'],
)
def test_other_text_gives_nothing(text):
    assert parse_config(text) == {}


def test_code_stays_text(tmp_path):
    code = f"open({str(tmp_path / 'marker')!r}, 'w')"
    assert parse_config(f'a = {code}\nb = dict(c=-1, d=dict(**{code}))\n{code}\nimport os')['a'] == code
    assert not (tmp_path / 'marker').exists()


def test_differences_name_the_settings():
    old = parse_config('loader = dict(batch_size=2, pipeline=[dict(type="A", size=1), dict(type="B", p=1)], old=1)')
    new = parse_config('loader = dict(batch_size=4, pipeline=[dict(type="A", size=2), dict(type="C", q=1)], new=1)')
    assert list(differences(old['loader'], new['loader'], 'loader')) == [
        ('loader.batch_size', 2, 4),
        ('loader.pipeline.0.size', 1, 2),
        ('loader.pipeline.1', {'type': 'B', 'p': 1}, {'type': 'C', 'q': 1}),
        ('loader.new', UNSET, 1),
        ('loader.old', 1, UNSET),
    ]
    assert not list(differences(old, old, 'cfg'))
