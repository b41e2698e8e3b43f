"""Checks a run's data: each file when it is read, and heads and metrics before the first iteration."""

from collections.abc import Mapping
from typing import Any

from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ..checks.annotation_formats import set_trust
from ..checks.class_counts import check_class_counts
from ..checks.coco_files import mask_evaluation_fault
from ..errors import DataError
from ..patches.dataset_errors import install_dataset_errors


@HOOKS.register_module(name=['DatasetCheckHook', 'DataCheckHook'])
class DatasetCheckHook(Hook):
    """Ends a run with one sentence if its data are damaged, or do not fit the heads of the model or the metrics.

    Images, masks and annotation files are checked when they are read, from the construction of this hook on. The number
    of classes of each head and the annotation files of the metrics are checked before the first iteration. The shipped
    configs contain
    `default_hooks=dict(dataset_check=dict(type='mmvmamba.engine.hooks.dataset_check.DatasetCheckHook'))`.

    Args:
        trust_annotations: also read annotation files that are pickles, or YAML that contains more than data. This
            executes code in the file. `--trust-annotations` of our tools has the same effect.

    Raises:
        DataError: during the run; the sentence names the file or head, what was found and what was expected.
    """

    def __init__(self, trust_annotations: bool = False):
        if trust_annotations:
            set_trust(True)
        install_dataset_errors()

    def before_train(self, runner: Runner) -> None:
        _check(runner.model, runner.train_loop, 'the training data')
        if runner.val_loop is not None:
            self.before_val(runner)

    def before_val(self, runner: Runner) -> None:
        _check(runner.model, runner.val_loop, 'the validation data')

    def before_test(self, runner: Runner) -> None:
        _check(runner.model, runner.test_loop, 'the test data')


def _check(model: Any, loop: Any, name: str) -> None:
    metainfo = getattr(loop.dataloader.dataset, 'metainfo', {})
    check_class_counts(model, metainfo, name)
    for metric in getattr(getattr(loop, 'evaluator', None), 'metrics', ()):  # a training loop has no evaluator
        check_metric(metric, metainfo)


def check_metric(metric: BaseMetric, metainfo: Mapping) -> None:
    """Checks the annotation file of mmdet's CocoMetric: its images, the classes of the dataset, and masks.

    Raises:
        DataError: names the file and what is missing.
    """
    annotations = getattr(metric, '_coco_api', None)
    if annotations is None:  # no ann_file, or another metric
        return
    if not annotations.imgs:
        raise DataError(f'{annotations.annotation_file}: it has no images to evaluate')
    if metainfo.get('classes'):
        annotations.get_cat_ids(cat_names=metainfo['classes'])  # for the error of the replaced getCatIds
    fault = mask_evaluation_fault(annotations.dataset) if 'segm' in getattr(metric, 'metrics', ()) else None
    if fault:
        raise DataError(f'{annotations.annotation_file}: {fault}')


DataCheckHook = DatasetCheckHook  # its name before version 0.2.0
