"""The checks of a run that need its model, data sets and metrics together."""

from collections.abc import Mapping

from mmengine.dataset import BaseDataset
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from .checks.class_names import check_class_counts
from .checks.coco_files import missing_mask
from .errors import DataError


@HOOKS.register_module()
class DataCheckHook(Hook):
    """Ends a run before its first iteration if the heads of the model or the metrics do not fit the data sets.

    Raises:
        DataError: names what does not fit.
    """

    def before_train(self, runner: Runner) -> None:
        _check(runner, runner.train_loop.dataloader.dataset, 'the training data')
        if runner.val_loop is not None:
            _check(runner, runner.val_loop.dataloader.dataset, 'the validation data', runner.val_loop.evaluator)

    def before_val(self, runner: Runner) -> None:
        _check(runner, runner.val_loop.dataloader.dataset, 'the validation data', runner.val_loop.evaluator)

    def before_test(self, runner: Runner) -> None:
        _check(runner, runner.test_loop.dataloader.dataset, 'the test data', runner.test_loop.evaluator)


def _check(runner: Runner, dataset: BaseDataset, name: str, evaluator: Evaluator | None = None) -> None:
    metainfo = getattr(dataset, 'metainfo', {})
    check_class_counts(runner.model, metainfo, name)
    for metric in getattr(evaluator, 'metrics', ()):
        check_metric(metric, metainfo)


def check_metric(metric: BaseMetric, metainfo: Mapping) -> None:
    """Checks the annotation file of a COCO metric of mmdet against the classes of the data set and for masks.

    Raises:
        DataError: names the file and what is missing.
    """
    annotations = getattr(metric, '_coco_api', None)
    if annotations is None:  # no ann_file, or another metric
        return
    if not annotations.imgs:
        raise DataError(f'{annotations.annotation_file}: it has no images to evaluate')
    if metainfo.get('classes'):
        annotations.get_cat_ids(cat_names=metainfo['classes'])  # which checks them
    fault = missing_mask(annotations.dataset) if 'segm' in getattr(metric, 'metrics', ()) else None
    if fault:
        raise DataError(f'{annotations.annotation_file}: {fault}')
