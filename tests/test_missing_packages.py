"""Tests that a tool or demo names a missing package and the command that installs it, in one line."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NEEDED = {
    'demo/app.py': ['cv2', 'gradio', 'mmcv'],
    'demo/image_demo.py': ['cv2', 'mmcv'],
    'tools/analysis_tools/activation_map.py': ['matplotlib', 'mmcv'],
    'tools/analysis_tools/benchmark.py': ['mmcv'],
    'tools/analysis_tools/receptive_field.py': ['matplotlib', 'mmcv'],
    'tools/dataset_converters/coco_to_masks.py': ['pycocotools'],
    'tools/dataset_converters/fashion_scenes.py': ['pycocotools', 'skimage'],
    'tools/dataset_converters/to_coco.py': ['supervision'],
    'tools/deployment/export.py': ['mmcv'],
}
COMMANDS = {
    'cv2': 'pip install opencv-python',
    'gradio': "pip install 'mmvmamba[web]'",
    'mmcv': 'pip install --no-build-isolation onedl-mmcv',
    'skimage': 'pip install scikit-image',
}


@pytest.mark.parametrize('script, package', [(script, name) for script, names in NEEDED.items() for name in names])
def test_a_missing_package_is_named_with_its_command(script, package):
    for other in NEEDED[script]:  # another missing package would be named first
        if other != package and find_spec(other) is None:
            pytest.skip(f'{other} is not installed')
    code = f'import runpy, sys; sys.modules[{package!r}] = None; sys.argv[0] = {script!r}; '
    code += f'runpy.run_path({script!r}, run_name="__main__")'
    done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    [line] = done.stderr.strip().splitlines()
    assert line.startswith(f'{Path(script).name}: {package} cannot be imported (')
    assert line.endswith(f': {COMMANDS.get(package, f"pip install {package}")}')
