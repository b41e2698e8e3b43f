"""Checks settings of a config whose faults would end in an error of a library, before anything is built."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config

from .errors import LaunchError


def check_config_values(cfg: Config) -> None:
    """Checks the colours of the datasets, and `mean` and `std` of the data preprocessor.

    Raises:
        LaunchError: names the option, what was found and what was expected.
    """
    for stage in ('train', 'val', 'test'):
        loader = cfg.get(f'{stage}_dataloader') or {}
        for option, dataset in _datasets(loader.get('dataset'), f'{stage}_dataloader.dataset'):
            if fault := palette_fault(dataset.get('metainfo') or {}, option) or _classes_fault(dataset, option):
                raise LaunchError(fault)
    if cfg.get('default_scope') == 'mmpretrain':  # its preprocessor normalises any number of channels
        return
    model = cfg.get('model') or {}
    for option, values in (
        ('data_preprocessor', cfg.get('data_preprocessor')),
        ('model.data_preprocessor', model.get('data_preprocessor')),
    ):
        for fault in _preprocessor_faults(values or {}, option):
            raise LaunchError(fault)


def palette_fault(metainfo: Mapping, dataset: str) -> str | None:
    """Returns a sentence if there are fewer colours than classes, else None: everything that draws would fail."""
    classes, palette = metainfo.get('classes'), metainfo.get('palette')
    if not isinstance(classes, (list, tuple)) or not isinstance(palette, (list, tuple)) or not palette:
        return None
    if isinstance(palette[0], int) or len(palette) >= len(classes):  # a single colour for all classes
        return None
    return (
        f'metainfo.palette of {dataset} has {len(palette)} colour{"s" * (len(palette) > 1)}, but metainfo.classes has '
        f'{len(classes)} names: give one colour for each class, or '
        'set palette=None (mmseg: palette=[]) for random colours'
    )


def _classes_fault(dataset: Mapping, option: str) -> str | None:
    """Returns a sentence if mmpretrain would read a class name as the name of a file, else None."""
    classes = dataset.get('classes')
    if not isinstance(classes, str) or Path(classes).is_file():
        return None
    return (
        f'{option}.classes is the string {classes!r}, which mmpretrain reads as the name of a file, but it is no file: '
        f'write [{classes!r}] for a single class'
    )


def _preprocessor_faults(values: Mapping, option: str) -> Iterator[str]:
    for key in ('mean', 'std'):
        numbers = values.get(key)
        if isinstance(numbers, (list, tuple)) and len(numbers) not in (1, 3):
            yield (
                f'{option}.{key} has {len(numbers)} values, but the libraries normalise 1 or 3 channels there: set '
                "mean=None and std=None, and add dict(type='Normalize', mean=[...], std=[...], to_rgb=False) to both "
                'pipelines'
            )


def _datasets(dataset: Any, option: str) -> Iterator[tuple[str, Mapping]]:
    """Yields (option, dataset) for a dataset and the datasets in it."""
    if not isinstance(dataset, Mapping):
        return
    yield option, dataset
    yield from _datasets(dataset.get('dataset'), f'{option}.dataset')
    for index, inner in enumerate(dataset.get('datasets') or ()):
        yield from _datasets(inner, f'{option}.datasets.{index}')
