import subprocess
import sys

import pytest

from mmvmamba.engine import libraries
from mmvmamba.engine.arguments import load_config
from mmvmamba.engine.errors import LaunchError


@pytest.mark.parametrize('library', ['mmdet', 'mmseg', 'mmpretrain'])
def test_importing_a_library_prints_nothing(library):
    pytest.importorskip(library)
    code = f'from mmvmamba.engine.libraries import register_modules; register_modules({library!r})'
    run = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert (run.returncode, run.stdout, run.stderr) == (0, '', '')


def test_a_visualization_hook_that_does_not_draw_prints_nothing():
    pytest.importorskip('mmseg')
    code = (
        "from mmvmamba.engine.libraries import register_modules; register_modules('mmseg')\n"
        'from mmseg.engine.hooks import SegVisualizationHook\n'
        "from mmseg.visualization import SegLocalVisualizer; SegLocalVisualizer.get_instance('visualizer')\n"
        'SegVisualizationHook()'
    )
    run = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, '')


def test_other_messages_and_warnings_are_printed():
    code = (
        'from mmvmamba.engine.patches.library_messages import hide_library_messages; hide_library_messages()\n'
        'import warnings; from mmengine.logging import print_log\n'
        'print_log("a message"); warnings.warn("a warning")'
    )
    run = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert run.stdout == 'a message\n'
    assert 'UserWarning: a warning' in run.stderr


def test_a_metric_that_needs_the_missing_package_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(libraries, 'find_spec', lambda name: None if name == 'faster_coco_eval' else True)
    config = tmp_path / 'config.py'
    config.write_text("val_evaluator = dict(type='mmdet.FasterCocoMetric')")
    with pytest.raises(LaunchError, match=r'config\.py needs faster_coco_eval, which is not installed: pip install'):
        load_config(config)
