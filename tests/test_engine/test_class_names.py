"""Tests that class names come from the checkpoint, else from the config, and that each label has name and colour."""

from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.structures import PixelData

pytest.importorskip('mmseg')
from mmseg.structures import SegDataSample

from mmvmamba.engine.class_names import class_info, name_all_labels
from mmvmamba.engine.libraries import register_modules


def config(**dataset):
    register_modules('mmseg')
    return Config(dict(default_scope='mmseg', test_dataloader=dict(dataset=dict(type='ADE20KDataset', **dataset))))


def test_class_names_of_the_checkpoint_take_precedence():
    cfg = config(metainfo=dict(classes=('x',)))
    assert class_info(cfg, dict(dataset_meta=dict(CLASSES=('a', 'b')))) == dict(classes=('a', 'b'))
    assert class_info(cfg, dict(CLASSES=('a', 'b'), PALETTE=[[1, 2, 3]], epoch=3)) == dict(
        classes=('a', 'b'), palette=[[1, 2, 3]]
    )


@pytest.mark.parametrize('meta', [None, {}, dict(epoch=3), dict(dataset_meta=dict(classes='names.txt')), [1]])
def test_class_names_fall_back_to_the_config(meta):
    assert class_info(config(), meta)['classes'][:2] == ('wall', 'building')
    assert class_info(config(metainfo=dict(classes=('a', 'b'))), meta)['classes'] == ('a', 'b')
    assert class_info(config(classes=['a', 'b']), meta)['classes'] == ['a', 'b']
    assert 'classes' not in class_info(config(metainfo=dict(classes='names.txt')), meta)
    assert class_info(Config(dict(default_scope='mmseg')), meta) == {}


@pytest.mark.parametrize('classes, palette', [(('a', 'b'), [[1, 2, 3]] * 150), (('a',), None), ((), []), (None, None)])
def test_every_label_has_a_name_and_a_colour(classes, palette):
    """mmseg requires as many colours as names."""
    meta = dict(classes=classes, palette=palette)
    sample = SegDataSample(pred_sem_seg=PixelData(data=torch.tensor([[[0, 5]]])))
    name_all_labels(SimpleNamespace(model=SimpleNamespace(dataset_meta=meta)), [sample])
    assert meta['classes'] == [*(classes or ()), *(f'class {label}' for label in range(len(classes or ()), 6))]
    assert len(meta['palette']) == 6
    assert meta['palette'][:1] == (palette or meta['palette'])[:1]


def test_known_palette_is_kept():
    for palette in ('random', 'coco', (0, 255, 0)):
        meta = dict(classes=('a',), palette=palette)
        name_all_labels(SimpleNamespace(model=SimpleNamespace(dataset_meta=meta)), [])
        assert meta == dict(classes=['a'], palette=palette)
