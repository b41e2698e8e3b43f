"""Checks the values of the masks of a dataset for semantic segmentation, all together."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from mmengine.dataset import Compose

from .quoting import listed

# Masks read before a training.
SAMPLES = 32


class MapValues(NamedTuple):
    """The values in a mask, as the pipeline loads it."""

    file: str
    values: frozenset[int]

    @classmethod
    def of(cls, sample: Mapping) -> 'MapValues | None':
        if sample.get('gt_seg_map') is None:
            return None
        return cls(str(sample.get('seg_map_path')), frozenset(np.unique(sample['gt_seg_map']).tolist()))


def spread(length: int, count: int = SAMPLES) -> list[int]:
    """Returns up to `count` evenly spaced indices."""
    return sorted(set(np.linspace(0, length - 1, min(count, length)).round().astype(int).tolist()))


def map_fault(maps: Sequence[MapValues], dataset: Any) -> str | None:
    """Returns a sentence if the masks cannot be meant, else None.

    Args:
        maps: of the masks that were read.
        dataset: BaseSegDataset of mmseg. `classes`, `ignore_index` and `reduce_zero_label` are read.
    """
    classes, ignored = dataset.metainfo.get('classes') or (), dataset.ignore_index
    if not maps:
        return None
    values = frozenset().union(*(each.values for each in maps))
    if values <= {ignored}:
        return f'{_these(maps)} no labelled pixel: all pixels have the value {ignored}, which is ignored'
    if values == {0, 255} and ignored == 255 and len(classes) > 1 and not dataset.reduce_zero_label:
        return (
            f'{_these(maps)} only the values 0 and 255, but 255 is ignored and the classes {listed(classes)} are 0 to '
            f'{len(classes) - 1}: convert them with tools/dataset_converters/mask_values.py --values 0 255'
        )
    return None


def map_warnings(maps: Sequence[MapValues], dataset: Any) -> Iterator[str]:
    """Yields a sentence for masks without a labelled pixel, and if all masks have the same single class."""
    classes, ignored = dataset.metainfo.get('classes') or (), dataset.ignore_index
    for each in maps:
        if each.values <= {ignored}:
            yield f'{each.file} has no labelled pixel: all have the value {ignored}, which is ignored'
    values = frozenset().union(*(each.values for each in maps)) - {ignored}
    if len(values) == 1 and len(classes) > 1:
        [value] = values
        name = f' ({classes[value]})' if value < len(classes) else ''
        yield f'{_these(maps)} the single class {value}{name}, but the dataset has {len(classes)} classes'


def _these(maps: Sequence[MapValues]) -> str:
    return f'{maps[0].file} and {len(maps) - 1} other masks have' if len(maps) > 1 else f'{maps[0].file} has'


def is_segmentation(dataset: Any) -> bool:
    """Whether a dataset has the attributes of mmseg's BaseSegDataset that the checks read."""
    return hasattr(dataset, 'reduce_zero_label') and isinstance(getattr(dataset, 'pipeline', None), Compose)
