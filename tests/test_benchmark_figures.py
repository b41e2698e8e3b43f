"""Tests that the figures of the benchmarks are legible."""

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
