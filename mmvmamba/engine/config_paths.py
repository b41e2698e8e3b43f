"""Checks that the files and folders that a config names exist."""

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.fileio import join_path
from mmengine.registry import DATASETS
from mmengine.utils import is_abs

from .checks.annotation_formats import check_trusted
from .errors import LaunchError


def check_config_paths(cfg: Config, *stages: str) -> None:
    """Checks that the data of a run exist, before anything is built.

    Args:
        cfg: complete config.
        stages: those that will run, of 'train', 'val' and 'test'.

    Raises:
        LaunchError: names the first missing path, and the option that contains it.
        DataError: a DSDL dataset is not trusted.
    """
    for stage in stages:
        for sentence in missing_paths(cfg, stage):
            raise LaunchError(sentence)


def missing_paths(cfg: Config, stage: str) -> Iterator[str]:
    """Yields a sentence for each path of a stage that does not exist."""
    loader = cfg.get(f'{stage}_dataloader')
    scope = cfg.get('default_scope') or 'mmengine'
    paths = list(_dataset_paths(loader.dataset, f'{stage}_dataloader.dataset', scope)) if loader else []
    for option, evaluator in _numbered(cfg.get(f'{stage}_evaluator'), f'{stage}_evaluator'):
        if evaluator.get('ann_file'):
            paths.append((f'{option}.ann_file', evaluator.ann_file))
    for option, path in paths:
        if '://' not in str(path) and not Path(path).exists():
            yield (
                f'{path} does not exist, and {option} names it: put the data there, or set the path in the config or '
                f'with --cfg-options {option}=PATH'
            )


def _numbered(entry: Any, option: str) -> list[tuple[str, Any]]:
    """Returns (option, part) for one part or a list of parts, with the option as in `--cfg-options`."""
    if isinstance(entry, (list, tuple)):
        return [(f'{option}.{index}', part) for index, part in enumerate(entry)]
    return [(option, entry)] if entry else []


def _dataset_paths(dataset: dict, option: str, scope: str) -> Iterator[tuple[str, str | Path]]:
    """Yields (option, path) for all that a dataset and the datasets in it read, joined as BaseDataset joins them."""
    for key in ('dataset', 'datasets'):
        for inner_option, inner in _numbered(dataset.get(key), f'{option}.{key}'):
            yield from _dataset_paths(inner, inner_option, scope)
    if _downloads(dataset, scope):
        return
    if str(dataset.get('type')).startswith('DSDL'):  # dsdl generates a program from the file and imports it
        check_trusted(str(dataset.get('ann_file')), 'a DSDL description')
    root = dataset.get('data_root') or ''
    prefix = dataset.get('data_prefix') or {}
    prefixes = prefix if isinstance(prefix, dict) else {'': prefix}
    if root:
        yield f'{option}.data_root', root
    for name, path in (
        ('ann_file', dataset.get('ann_file')),
        *(('data_prefix' + (key and f'.{key}'), path) for key, path in prefixes.items()),
    ):
        if path and isinstance(path, str):
            yield f'{option}.{name}', path if is_abs(path) or not root else join_path(root, path)


def _downloads(dataset: dict, scope: str) -> bool:
    """Whether the dataset downloads missing files, as CIFAR and MNIST of mmpretrain do."""
    cls = dataset.get('type')
    if isinstance(cls, str):
        with DATASETS.switch_scope_and_registry(scope) as registry:
            cls = registry.get(cls)
    return cls is not None and 'download' in inspect.signature(cls).parameters and dataset.get('download', True)
