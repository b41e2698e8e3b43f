"""Checks a run's data: each file when it is read, and data, heads and metrics before the first iteration."""

from collections.abc import Mapping
from typing import Any

from mmengine.dist import get_world_size
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ..checks.annotation_formats import set_trust
from ..checks.batch_size import batch_size_warning
from ..checks.channels import check_channels
from ..checks.class_counts import check_class_counts
from ..checks.coco_files import mask_evaluation_fault
from ..checks.image_scale import image_scale, load_samples, scale_warning
from ..checks.label_maps import MapValues, is_segmentation, map_fault, map_warnings, spread
from ..checks.reporting import warn
from ..config_values import palette_fault
from ..errors import DataError
from ..patches.dataset_errors import install_dataset_errors, load_sample


@HOOKS.register_module(name=['DatasetCheckHook', 'DataCheckHook'])
class DatasetCheckHook(Hook):
    """Ends a run with one sentence if its data are damaged, or do not fit the heads of the model or the metrics.

    Images, masks and annotation files are checked when they are read, from the construction of this hook on. The number
    of classes of each head, the annotation files of the metrics and some masks are checked before the first iteration.
    Settings that may be intended are logged: boxes outside of their image, masks of a single class, another scale of
    the images in testing, and another total batch size than that of the recipe. The shipped configs contain
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
        loop: Any = runner.train_loop
        _check(runner.model, loop, 'the training data')
        train = loop.dataloader.dataset
        sentences = [batch_size_warning(runner.cfg, get_world_size())]
        check_masks(train)
        samples = load_samples(train)
        if samples:
            check_channels(runner.model, samples[0], 'the training data')
        if runner.val_loop is not None:
            _check(runner.model, runner.val_loop, 'the validation data')
            val_samples = load_samples(runner.val_loop.dataloader.dataset)
            sentences.append(scale_warning(image_scale(samples), image_scale(val_samples), 'the validation data'))
        for sentence in filter(None, sentences):
            warn(sentence)

    def before_val(self, runner: Runner) -> None:
        _check(runner.model, runner.val_loop, 'the validation data')

    def before_test(self, runner: Runner) -> None:
        _check(runner.model, runner.test_loop, 'the test data')


def _check(model: Any, loop: Any, name: str) -> None:
    metainfo = getattr(loop.dataloader.dataset, 'metainfo', {})
    check_class_counts(model, metainfo, name)
    if fault := palette_fault(metainfo, name):
        raise DataError(fault)
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


def check_masks(dataset: Any) -> None:
    """Checks the values of some masks of a dataset of mmseg; other datasets are not read.

    Raises:
        DataError: they cannot be intended. What may be intended is logged.
    """
    if not is_segmentation(dataset):
        return
    samples = (load_sample(dataset, index) for index in spread(len(dataset)))
    maps = [values for values in (MapValues.of(sample) for sample in samples if sample) if values is not None]
    if fault := map_fault(maps, dataset):
        raise DataError(fault)
    for sentence in map_warnings(maps, dataset):
        warn(sentence)


DataCheckHook = DatasetCheckHook  # its name before version 0.2.0
