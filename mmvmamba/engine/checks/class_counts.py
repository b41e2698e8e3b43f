"""Checks that the heads of a model have as many classes as the dataset has names."""

from collections.abc import Iterator, Mapping

from torch import nn

from ..errors import DataError
from .quoting import listed, quoted

# The attributes of mmdet, mmseg and mmpretrain models that hold heads for the classes of a dataset.
HEADS = ('bbox_head', 'mask_head', 'point_head', 'decode_head', 'auxiliary_head', 'head')
# Heads with other classes: RPN has objects and background, the auxiliary head of STDC has edges.
OTHER_CLASSES = ('RPN', 'STDCHead')


def check_class_counts(model: nn.Module, metainfo: Mapping, dataset: str) -> None:
    """Compares `num_classes` of each head with the classes of a dataset, if it names them.

    Args:
        model: detector, segmentor or classifier.
        metainfo: of the dataset; `classes` is read, and `thing_classes` if the dataset is panoptic.
        dataset: its name in the error.

    Raises:
        DataError: names the head, both numbers and the options to change.
    """
    classes = metainfo.get('classes')
    if isinstance(classes, str):
        raise DataError(
            f'metainfo.classes of {dataset} is the string {quoted(classes)}, but must be a tuple: write '
            f'({quoted(classes)},)'
        )
    if not classes or any(name.split('.')[-1] == 'language_model' for name, _ in model.named_modules()):
        return  # no names, or a head that compares with words
    counts = {len(classes), len(metainfo.get('thing_classes') or classes)}
    for name, head in _heads(model):
        binary = getattr(head, 'out_channels', None) == 1 and len(classes) == 2  # mmseg: one map for two classes
        if head.num_classes not in counts and not binary:
            raise DataError(
                f'{name} of the model has num_classes={head.num_classes}, but the number of classes of {dataset} is '
                f'{len(classes)} ({listed(classes)}): change num_classes, or metainfo.classes of the dataset'
            )


def _heads(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, module in model.named_modules():
        parts = [part for part in name.split('.') if not part.isdigit()]  # a cascade has a list of heads
        count = getattr(module, 'num_classes', None)
        if not parts or parts[-1] not in HEADS or type(count) is not int or getattr(module, 'class_agnostic', False):
            continue
        if not any(kind in type(module).__name__ for kind in OTHER_CLASSES):
            yield name.removeprefix('module.'), module
