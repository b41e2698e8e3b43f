import logging
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData

from mmvmamba.engine.errors import LaunchError
from mmvmamba.engine.hooks.pictures import PictureHook
from mmvmamba.engine.libraries import register_modules
from mmvmamba.engine.panels import GAP

VISUALIZERS = dict(mmdet='DetLocalVisualizer', mmseg='SegLocalVisualizer', mmpretrain='UniversalVisualizer')


class Images:
    metainfo = dict(classes=('ball', 'box'), palette=[(0, 0, 255), (255, 0, 0)])

    def __init__(self, paths):
        self.paths = list(map(str, paths))

    def __len__(self):
        return len(self.paths)

    def get_data_info(self, index):
        return dict(img_path=self.paths[index])


@pytest.fixture
def draw(tmp_path, caplog):
    """Draws samples of images with PictureHook; returns the names and pictures, and the logged lines."""

    def draw(scope, names, samples, **options):
        pytest.importorskip(scope)
        register_modules(scope)
        paths = [tmp_path / 'images' / name for name in names]
        for path, sample in zip(paths, samples):
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), np.full((300, 400, 3), 128, np.uint8))
            sample.set_metainfo(dict(img_path=str(path), ori_shape=(300, 400)))
        pipeline = [dict(type='LoadImageFromFile')]
        cfg = dict(
            default_scope=scope,
            visualizer=dict(type=VISUALIZERS[scope]),
            test_dataloader=dict(dataset=dict(datasets=[dict(pipeline=pipeline)])),
        )
        runner = SimpleNamespace(
            cfg=Config(cfg),
            test_dataloader=SimpleNamespace(dataset=Images(paths)),
            visualizer=SimpleNamespace(dataset_meta=Images.metainfo),
            logger=logging.getLogger('test'),
        )
        hook = PictureHook(str(tmp_path / 'pictures'), **options)
        caplog.set_level('INFO')
        with DefaultScope.overwrite_default_scope(scope):
            hook.before_test_epoch(runner)
            hook.after_test_iter(runner, 0, None, samples)
            hook.after_test_epoch(runner)
        folder = tmp_path / 'pictures'
        pictures = {str(file.relative_to(folder)): cv2.imread(str(file)) for file in sorted(folder.rglob('*.png'))}
        return pictures, [record.message for record in caplog.records]

    return draw


def classified(label, truth=None):
    from mmpretrain.structures import DataSample

    sample = DataSample().set_pred_score(torch.eye(2)[label]).set_pred_label(label)
    return sample if truth is None else sample.set_gt_label(truth)


def instances(**fields):
    boxes = torch.tensor([[20.0, 30, 120, 130]])
    return InstanceData(bboxes=boxes, labels=torch.tensor([1]), **fields)


def detected(score, annotated=True):
    from mmdet.structures import DetDataSample

    sample = DetDataSample(pred_instances=instances(scores=torch.tensor([score])))
    if annotated:
        sample.gt_instances = instances()
    return sample


def segmented():
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    half = torch.zeros(1, 300, 400, dtype=torch.long)
    half[..., 200:] = 1
    return SegDataSample(gt_sem_seg=PixelData(data=half), pred_sem_seg=PixelData(data=1 - half))


def test_images_of_the_same_name_in_different_folders_have_their_own_pictures(draw):
    names = ['a/1.png', 'b/1.png', 'b/2.jpg', 'b/2.png']
    pictures, _ = draw('mmpretrain', names, [classified(0) for _ in names])
    assert list(pictures) == ['a/1.png', 'b/1.png', 'b/2.jpg.png', 'b/2.png.png']


def test_a_wrong_class_has_a_red_title(draw):
    pictures, _ = draw('mmpretrain', ['right.png', 'wrong.png'], [classified(1, truth=1), classified(1, truth=0)])
    colours = {name: np.ptp(picture[:-300].astype(int), axis=-1).max() for name, picture in pictures.items()}
    assert colours['right.png'] == 0
    assert colours['wrong.png'] > 100


def test_annotation_and_prediction_of_a_detector_are_side_by_side(draw):
    pictures, log = draw('mmdet', ['1.jpg'], [detected(0.9)])
    picture = pictures['1.png']
    assert picture.shape[1] == 800 + GAP
    assert (picture[-300:, :400] != 128).any() and (picture[-300:, -400:] != 128).any()
    assert 'pictures: 1 object with a score of at least 0.3.' in log[-1]


def test_objects_below_the_threshold_are_not_drawn_and_the_log_reports_zero(draw):
    pictures, log = draw('mmdet', ['1.jpg'], [detected(0.45)], score_thr=0.5)
    assert abs(pictures['1.png'][-300:, -400:].astype(int) - 128).max() <= 2
    assert '1 picture written to' in log[-2] and ': 0 objects with a score of at least 0.5.' in log[-2]
    assert 'default_hooks.visualization.score_thr' in log[-1]


def test_without_annotations_only_the_prediction_is_drawn(draw):
    pictures, _ = draw('mmdet', ['1.jpg'], [detected(0.9, annotated=False)])
    assert pictures['1.png'].shape[1] == 400


def test_masks_of_a_segmentor_are_transparent(draw):
    pictures, log = draw('mmseg', ['1.jpg'], [segmented()])
    picture = pictures['1.png'][-300:]
    left, right = picture[5, 5], picture[5, 400 + GAP + 395]
    assert (left == right).all()  # the prediction is the opposite of the annotation
    assert abs(left.astype(int) - 128).max() < 110
    assert 'objects' not in log[-1]


def test_a_model_without_known_predictions_is_named(draw):
    from mmengine.structures import BaseDataElement

    with pytest.raises(LaunchError, match='this model predicts pred_caption'):
        draw('mmpretrain', ['1.png'], [BaseDataElement(pred_caption='a coin')])
