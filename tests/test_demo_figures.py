"""Tests that the READMEs quote the stored results of the demos."""

import json
import math
import re
from pathlib import Path

import pytest

pytest.importorskip('scipy')

ROOT = Path(__file__).parents[1]
RESULTS = json.loads((ROOT / 'benchmarks/results/demos.json').read_text())['results']


@pytest.fixture
def demos(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / 'benchmarks'))
    import demos

    return demos


@pytest.mark.parametrize('readme', ['README.md', 'benchmarks/README.md'])
def test_tables_and_quoted_ranges_are_those_of_the_results(demos, readme):
    text = (ROOT / readme).read_text()
    assert demos.fill(text, RESULTS) == text, f'{readme}: run `python benchmarks/demos.py --seeds`'
    assert '<!-- demo' in text
    assert not re.search('^ *<!-- demo:', text, re.M), 'a comment at the start of a line ends the paragraph in Markdown'


def test_every_demo_config_is_in_the_table(demos):
    assert sorted(demos.CONFIGS) == sorted(config.stem for config in ROOT.glob('configs/demo/*.py'))
    assert {row['config'] for row in RESULTS} == set(demos.CONFIGS)


def test_an_outdated_quote_is_renewed(demos):
    text = 'AP <!-- demo: r18_digits, accuracy -->1 to 2<!-- / --> and <!-- demos -->old<!-- end of demos -->'
    new = demos.fill(text, RESULTS)
    assert re.match(r'AP <!-- demo: r18_digits, accuracy -->[\d. to%]+<!-- / --> and <!-- demos -->\n\n\|', new)
    assert 'old' not in new


def test_the_expected_range_is_the_prediction_interval_of_the_pooled_deviation(demos):
    """By hand: means 0.5 and 0.8, squares 2 x 0.01 each, 4 degrees of freedom, t = 2.776."""
    values = {'vmamba-demo_digits': (40, 50, 60), 'r18_digits': (70, 80, 90)}
    results = [dict(config=config, seed=seed, threads=1, **{'accuracy/top1': value})
               for config, runs in values.items() for seed, value in enumerate(runs)]  # fmt: skip
    ranges = demos.expected_ranges(results, 'Digits', 'accuracy/top1')
    margin = 2.7764 * 10 * math.sqrt(1 + 1 / 3)
    assert ranges['vmamba-demo_digits'] == pytest.approx((50 - margin, 50 + margin), abs=1e-2)
    assert ranges['r18_digits'] == (pytest.approx(80 - margin, abs=1e-2), 100)


def test_with_few_runs_their_range_is_quoted(demos):
    results = [dict(config='r18_digits', seed=seed, threads=1, **{'accuracy/top1': 98.83 - seed}) for seed in (0, 1)]
    text = demos.fill('<!-- demo: r18_digits, accuracy -->?<!-- / --> <!-- demos --><!-- end of demos -->', results)
    assert text.startswith('<!-- demo: r18_digits, accuracy -->97.8 to 98.8 %<!-- / -->')
    assert '| accuracy | 98.8 / 97.8 | - | 97.8 to 98.8 % | - |' in text


def test_the_planned_runs_are_all_seeds_on_one_thread_and_vmamba_on_two(demos):
    runs = demos.planned_runs([0, 1, 2])
    assert len(runs) == len(set(runs)) == 3 * 9 + 3
    assert {(seed, threads) for config, seed, threads in runs if threads == 2} == {(0, 2)}
