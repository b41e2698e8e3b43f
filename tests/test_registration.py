"""Tests that one registration works with every library, and that none of the libraries is required."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

import mmvmamba

TINY = dict(type='VMamba', arch=dict(dims=8, depths=(1, 1, 1, 1)))
OPTIONAL = ('mmcv', 'mmdet', 'mmseg', 'mmpretrain', 'torchvision', 'mamba_ssm', 'cv2')


def run(code, blocked):
    """Runs code in an interpreter in which the given packages cannot be imported."""
    block = f'import sys\nfor name in {blocked!r}:\n    sys.modules[name] = None\n'
    return subprocess.run(
        [sys.executable, '-c', block + code], capture_output=True, text=True, cwd=Path(mmvmamba.__file__).parents[1]
    )


def test_package_needs_only_torch_mmengine_and_einops():
    done = run(
        'import torch, mmvmamba\n'
        f'from mmengine.registry import MODELS\nmodel = MODELS.build({TINY!r})\n'
        'print([tuple(out.shape) for out in model(torch.rand(1, 3, 64, 64))])',
        OPTIONAL + ('triton',),
    )
    assert done.returncode == 0, done.stderr
    assert '(1, 8, 16, 16), (1, 16, 8, 8), (1, 32, 4, 4), (1, 64, 2, 2)' in done.stdout


def test_error_without_mmengine_names_the_package_to_install():
    done = run('import mmvmamba', ('mmengine',))
    assert done.returncode != 0
    assert 'mmvmamba needs MMEngine: run `pip install onedl-mmengine`' in done.stderr.splitlines()[-1]


def test_diagnosis_names_every_backend():
    done = run('import runpy\nrunpy.run_module("mmvmamba", run_name="__main__")', OPTIONAL)
    assert done.returncode == 0, done.stderr
    for word in ('torch', 'reference', 'chunked', 'native', 'triton', 'mamba_ssm', 'can run'):
        assert word in done.stdout


@pytest.mark.parametrize('library', ['mmdet', 'mmseg', 'mmpretrain'])
def test_each_library_finds_the_backbone(library):
    pytest.importorskip(library)
    registry = __import__(f'{library}.registry', fromlist=['MODELS']).MODELS
    assert type(registry.build(TINY)) is mmvmamba.VMamba
    with DefaultScope.overwrite_default_scope(library):
        assert type(MODELS.build(TINY)) is mmvmamba.VMamba


def test_full_name_needs_no_custom_imports():
    done = run(
        f'from mmengine.registry import MODELS\nprint(type(MODELS.build({TINY | dict(type="mmvmamba.VMamba")!r})))',
        OPTIONAL,
    )
    assert 'mmvmamba.models.vmamba.VMamba' in done.stdout, done.stderr


# The lines that the README gives for user configs.
LINES = """
custom_imports = dict(imports=['mmvmamba'], allow_failed_imports=False)
model = dict(
    backbone=dict(_delete_=True, type='VMamba', arch=dict(dims=96, depths=(1, 1, 1, 1)), init_cfg=None),
    {heads})
"""
DETECTOR = 'neck=dict(in_channels=[96, 192, 384, 768])'
SEGMENTOR = 'pretrained=None, decode_head=dict(in_channels=[96, 192, 384, 768]), auxiliary_head=dict(in_channels=384)'


@pytest.mark.parametrize(
    'library, base, heads',
    [
        ('mmdet', 'mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py', DETECTOR),
        ('mmdet', 'swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py', DETECTOR),
        ('mmseg', 'upernet/upernet_r50_4xb4-160k_ade20k-512x512.py', SEGMENTOR),
    ],
)
def test_a_few_lines_change_the_backbone_of_any_config(library, base, heads, tmp_path):
    package = pytest.importorskip(library)
    base = Path(package.__file__).parent / '.mim' / 'configs' / base
    file = tmp_path / 'mine.py'
    file.write_text(f'_base_ = {str(base)!r}\n' + LINES.format(heads=heads))
    cfg = Config.fromfile(file)
    with DefaultScope.overwrite_default_scope(library):
        model = MODELS.build(cfg.model)
    assert type(model.backbone) is mmvmamba.VMamba
    feats = model.extract_feat(torch.rand(1, 3, 64, 64))
    if library == 'mmdet':
        assert [tuple(feat.shape[1:]) for feat in feats] == [(256, side, side) for side in (16, 8, 4, 2, 1)]
    else:
        model.eval()
        assert model.decode_head(feats).shape == (1, 150, 16, 16)
        assert model.auxiliary_head(feats).shape == (1, 150, 4, 4)
