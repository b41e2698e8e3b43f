"""The Colab notebook, run on a CPU with one epoch of training."""

import os
import re
import sys
from pathlib import Path

import pytest

nbformat = pytest.importorskip('nbformat')
nbclient = pytest.importorskip('nbclient')
pytest.importorskip('ipykernel')

ROOT = Path(__file__).parents[1]


@pytest.fixture
def notebook():
    return nbformat.read(ROOT / 'demo/colab.ipynb', as_version=4)


def test_notebook_is_stored_without_outputs(notebook):
    nbformat.validate(notebook)
    assert not [cell for cell in notebook.cells if cell.get('outputs') or cell.get('execution_count')]


def test_notebook_installs_the_pinned_versions(notebook):
    locked = dict(re.findall(r'^(\S+)==(\S+)', (ROOT / 'requirements.lock').read_text(), re.M))
    [install] = [cell.source for cell in notebook.cells if '%pip' in cell.source]
    pins = dict(re.findall(r'(\S+)==(\S+)', install))
    assert set(pins) == {'onedl-mmengine', 'onedl-mmcv', 'onedl-mmpretrain'}
    assert pins == {name: locked[name] for name in pins}


@pytest.mark.slow
def test_all_cells_run(notebook, tmp_path, monkeypatch):
    """A command after an exclamation mark that fails raises nothing, so the results are tested, too."""
    pytest.importorskip('mmpretrain')
    [training] = [cell for cell in notebook.cells if 'epochs = 30\n' in cell.source]
    training.source = training.source.replace('epochs = 30', 'epochs = 1')
    monkeypatch.setenv('PATH', f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}')
    monkeypatch.setenv('PYTHONPATH', str(ROOT))
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '')
    monkeypatch.setenv('OMP_NUM_THREADS', '1')
    resources = {'metadata': {'path': str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=280, kernel_name='python3', resources=resources).execute()

    outputs = [output for cell in notebook.cells for output in cell.get('outputs', [])]
    printed = ''.join(output.get('text', '') for output in outputs)
    assert '[(1, 96, 56, 56), (1, 192, 28, 28), (1, 384, 14, 14), (1, 768, 7, 7)]' in printed
    assert re.search(r'chunked +can run', printed)
    assert re.search(r'Epoch\(test\).*accuracy/top1: \d', printed)
    assert sum('image/png' in output.get('data', {}) for output in outputs) == 2
    assert 'Traceback' not in printed
