"""Tests that the figures of the benchmarks are legible."""

import json
import re
import sys
from pathlib import Path

import pytest

pytest.importorskip('matplotlib')

BENCHMARKS = Path(__file__).parents[1] / 'benchmarks'


@pytest.fixture
def figure(monkeypatch, tmp_path):
    """Draws the stored results of backbone.py; returns the figure of matplotlib."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import backbone_figure
    from matplotlib import pyplot as plt

    def figure(name):
        out = tmp_path / 'figure.png'
        monkeypatch.setattr(sys, 'argv', ['backbone_figure.py', str(BENCHMARKS / 'results' / name), str(out)])
        backbone_figure.main()
        assert out.stat().st_size
        drawn = plt.gcf()
        drawn.canvas.draw()
        return drawn

    yield figure
    plt.close('all')


@pytest.mark.parametrize('name', ['cpu_backbone.json', 'cpu_vim.json', 'cpu_vim_fpn.json'])
def test_the_legend_covers_no_panel_and_each_panel_has_a_title(figure, name):
    drawn = figure(name)
    [legend] = drawn.legends
    box = legend.get_window_extent()
    assert not [axes for axes in drawn.axes if axes.get_tightbbox().overlaps(box)]
    assert all('per pixel' in axes.get_title() for axes in drawn.axes)


def test_each_network_has_one_color_and_one_entry(figure):
    drawn = figure('cpu_backbone.json')
    names = [text.get_text() for text in drawn.legends[0].get_texts()]
    assert len(names) == len(set(names)) == 5
    lines = [line for axes in drawn.axes for line in axes.get_lines()]
    assert len({(line.get_label(), line.get_color()) for line in lines}) == 5


@pytest.mark.parametrize('family, baseline', [('', 'Swin-T'), ('_vim', 'DeiT-Ti')])
def test_figures_of_deployment_are_those_of_the_stored_results(family, baseline):
    """The tables of both READMEs contain each stored ratio, with two decimals."""
    stored = json.loads((BENCHMARKS / f'results/cpu_deployment{family}.json').read_text())['results']
    ours = stored[0]['network']
    tables = {
        'ratio_to_eager': (BENCHMARKS.parent / 'README.md', f'Time / time of {baseline} in PyTorch'),
        'ratio': (BENCHMARKS / 'README.md', f'{ours} / {baseline}'),
    }
    for key, (page, title) in tables.items():
        text = page.read_text()
        rows = re.findall(r'^\| (.*?) \| (.*) \|$', text[text.index(f'| {title} |') :].partition('\n\n')[0], re.M)
        expected = {}
        for row in stored:
            name = f'{row["network"]}, {row["runtime"]}' if key == 'ratio_to_eager' else row['runtime']
            if key == 'ratio_to_eager' or row['network'] == ours:
                expected.setdefault(name, []).append('{:.2f} ({:.2f}-{:.2f})'.format(*row[key]))
        assert {name: cells.split(' | ') for name, cells in rows if name in expected} == expected


@pytest.mark.parametrize('name', ['cpu_deployment', 'cpu_deployment_vim'])
def test_figure_of_deployment_names_each_network_runtime_and_size(monkeypatch, tmp_path, name):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import deployment_figure
    from matplotlib import pyplot as plt

    results, out = BENCHMARKS / f'results/{name}.json', tmp_path / 'figure.png'
    monkeypatch.setattr(sys, 'argv', ['deployment_figure.py', str(results), str(out)])
    deployment_figure.main()
    assert out.stat().st_size
    stored, drawn = json.loads(results.read_text())['results'], plt.gcf()
    assert {text.get_text() for text in drawn.legends[0].get_texts()} == {row['runtime'] for row in stored}
    assert [axes.get_title() for axes in drawn.axes] == list(
        dict.fromkeys('{size} x {size}'.format(**r) for r in stored)
    )
    networks = list(dict.fromkeys(row['network'] for row in stored))
    assert [label.get_text() for label in drawn.axes[0].get_yticklabels()] == networks
    plt.close('all')
