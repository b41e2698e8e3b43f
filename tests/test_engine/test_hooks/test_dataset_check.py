"""Heads and metrics that do not fit the data end a run before its first iteration."""

import json
import os
import re
import shutil
import subprocess
import sys
from argparse import ArgumentParser, Namespace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
from mmengine.config import Config
from torch import nn

from mmvmamba.engine.arguments import add_arguments
from mmvmamba.engine.checks.annotation_formats import trust_annotations, trusts_annotations
from mmvmamba.engine.errors import DataError
from mmvmamba.engine.hooks.dataset_check import DatasetCheckHook, check_metric
from mmvmamba.engine.patches.dataset_errors import install_dataset_errors
from mmvmamba.engine.tool_session import tool_session

ROOT = Path(__file__).parents[3]


def loop(*classes):
    dataset = SimpleNamespace(metainfo=dict(classes=classes))
    return SimpleNamespace(dataloader=SimpleNamespace(dataset=dataset), evaluator=SimpleNamespace(metrics=[]))


def runner(num_classes, **loops):
    model = nn.Module()
    model.head = nn.Module()
    model.head.num_classes = num_classes
    return SimpleNamespace(model=model, cfg=Config(), **loops)


def test_training_checks_both_data_sets():
    hook = DatasetCheckHook()
    hook.before_train(runner(2, train_loop=loop('a', 'b'), val_loop=loop('a', 'b')))
    hook.before_train(runner(2, train_loop=loop('a', 'b'), val_loop=None))
    with pytest.raises(DataError, match='num_classes=200, but the number of classes of the training data is 2'):
        hook.before_train(runner(200, train_loop=loop('a', 'b'), val_loop=None))
    with pytest.raises(DataError, match='num_classes=2, but the number of classes of the validation data is 3'):
        hook.before_train(runner(2, train_loop=loop('a', 'b'), val_loop=loop('a', 'b', 'c')))


def test_testing_and_validation_check_theirs():
    with pytest.raises(DataError, match='num_classes=2, but the number of classes of the test data is 3'):
        DatasetCheckHook().before_test(runner(2, test_loop=loop('a', 'b', 'c')))
    with pytest.raises(DataError, match='num_classes=2, but the number of classes of the validation data is 3'):
        DatasetCheckHook().before_val(runner(2, val_loop=loop('a', 'b', 'c')))


def coco_metric(tmp_path, metric, **values):
    metrics = pytest.importorskip('mmdet.evaluation.metrics')
    pytest.importorskip('pycocotools')
    install_dataset_errors()
    square = [[0, 0, 9, 0, 9, 9]]
    annotation = dict(id=1, image_id=1, category_id=1, bbox=[0, 0, 9, 9], area=81, segmentation=square)
    content = dict(
        images=[dict(id=1, file_name='a.png', height=10, width=10)],
        annotations=[annotation | values],
        categories=[dict(id=1, name='coin')],
    )
    (tmp_path / 'a.json').write_text(json.dumps(content))
    return metrics.CocoMetric(ann_file=str(tmp_path / 'a.json'), metric=metric)


def test_the_file_of_a_metric_has_the_classes_and_the_masks(tmp_path):
    check_metric(coco_metric(tmp_path, 'segm'), dict(classes=('coin',)))
    with pytest.raises(DataError, match='a.json: it has no category for the classes token'):
        check_metric(coco_metric(tmp_path, 'bbox'), dict(classes=('coin', 'token')))
    check_metric(coco_metric(tmp_path, 'bbox', segmentation=None), dict(classes=('coin',)))
    with pytest.raises(
        DataError, match='a.json: annotation 1 has no segmentation, which the evaluation of masks needs'
    ):
        check_metric(coco_metric(tmp_path, 'segm', segmentation=None), dict(classes=('coin',)))


def test_the_file_of_a_metric_has_images(tmp_path):
    metric = coco_metric(tmp_path, 'bbox')
    metric._coco_api.imgs.clear()
    with pytest.raises(DataError, match='a.json: it has no images to evaluate'):
        check_metric(metric, dict(classes=('coin',)))


def test_the_file_of_a_metric_is_checked_when_it_is_built(tmp_path):
    with pytest.raises(DataError, match=r'a.json: the segmentation of annotation 1 has the coordinate 1e\+308'):
        coco_metric(tmp_path, 'bbox', segmentation=[[1e308] * 6])


def test_the_option_trusts_annotations_while_the_tool_runs():
    for options, trusted in ([], False), (['--trust-annotations'], True):
        parser = ArgumentParser()
        add_arguments(parser, 'trust_annotations')
        with tool_session(parser.parse_args(options)):
            assert trusts_annotations() is trusted
        assert not trusts_annotations()
    with tool_session(Namespace()):
        assert not trusts_annotations()


def test_the_hook_can_trust_annotations_in_other_tools():
    with trust_annotations(False):
        DatasetCheckHook()
        assert not trusts_annotations()
        DatasetCheckHook(trust_annotations=True)
        assert trusts_annotations()


@pytest.fixture(scope='module')
def coins(tmp_path_factory):
    pytest.importorskip('mmdet')
    pytest.importorskip('skimage')
    folder = tmp_path_factory.mktemp('coins')
    subprocess.run([sys.executable, ROOT / 'tools/dataset_converters/coins.py', '--out-dir', folder], check=True)
    return folder


def train(tool, coins, work_dir, *settings):
    options = [f'{part}_dataloader.dataset.data_root={coins}' for part in ('train', 'val', 'test')]
    options += [f'val_evaluator.ann_file={coins}/annotations/instances_validation.json', *settings]
    config = ROOT / 'configs/demo/mask-rcnn_vmamba-demo_fpn_coins.py'
    command = [sys.executable, tool, config, '--work-dir', work_dir, '--cfg-options', *options]
    environment = os.environ | {'PYTHONPATH': str(ROOT), 'CUDA_VISIBLE_DEVICES': ''}
    return subprocess.run(
        list(map(str, command)), capture_output=True, text=True, check=False, cwd=work_dir.parent, env=environment
    )


@pytest.mark.slow
def test_training_ends_before_its_first_iteration(coins, tmp_path):
    done = train(ROOT / 'tools/train.py', coins, tmp_path / 'run', 'model.roi_head.bbox_head.num_classes=200')
    assert done.returncode == 1 and 'Traceback' not in done.stderr
    sentence = 'train.py: roi_head.bbox_head of the model has num_classes=200, but the number of classes of the '
    assert sentence in done.stderr and 'Iter(train)' not in done.stdout


@pytest.mark.slow
def test_the_shipped_configs_bring_the_hooks_to_the_training_tool_of_mmdet(coins, tmp_path):
    """It checks the data and saves atomically, without any code of our tools."""
    tool = Path(find_spec('mmdet').submodule_search_locations[0], '.mim/tools/train.py')
    settings = ['train_dataloader.num_workers=1', 'train_cfg.max_iters=2', 'train_cfg.val_interval=9']
    settings += ['default_hooks.checkpoint.interval=1', 'default_hooks.checkpoint.max_keep_ckpts=1']
    done = train(tool, coins, tmp_path / 'run', *settings)
    assert done.returncode == 0, done.stderr
    assert 'AtomicCheckpointHook' in done.stdout
    assert [path.name for path in (tmp_path / 'run').glob('*.pth*')] == ['iter_2.pth']

    data = shutil.copytree(coins, tmp_path / 'damaged')
    for image in (data / 'images/training').iterdir():
        image.write_bytes(image.read_bytes()[:100])
    done = train(tool, data, tmp_path / 'next', *settings)
    assert done.returncode == 1
    assert re.search(r'DataError: .*images/training/.*\.png cannot be read as an image', done.stderr), done.stderr
