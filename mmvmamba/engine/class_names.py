"""The names of the classes that a model predicts: from its checkpoint, else from its dataset, else numbers."""

from typing import Any

import numpy as np
from mmengine.config import Config


def class_info(cfg: Config, meta: Any) -> dict[str, Any]:
    """Returns `classes` and `palette`, as far as they are known.

    Args:
        cfg: complete config, whose libraries are imported.
        meta: `meta` of the checkpoint; its names take precedence over those of the config's test dataset.
    """
    meta = meta if isinstance(meta, dict) else {}
    saved = meta.get('dataset_meta') or {key: meta.get(key) for key in ('CLASSES', 'PALETTE')}  # before MMEngine
    saved = {str(key).lower(): value for key, value in saved.items()}
    if isinstance(saved.get('classes'), (list, tuple)):
        return saved
    dataset = (cfg.get('test_dataloader') or {}).get('dataset') or {}
    given = {key: dataset[key] for key in ('classes', 'palette') if dataset.get(key)}
    info = {**_dataset_info(cfg, dataset.get('type')), **given, **(dataset.get('metainfo') or {})}
    if not isinstance(info.get('classes'), (list, tuple)):  # a file with names, which only the dataset reads
        info.pop('classes', None)
    return info


def name_all_labels(inferencer: Any, samples: list[Any]) -> None:
    """Adds names (`class 137`) and colours for predicted labels beyond the last known name.

    A head can have more classes than the dataset has names. The visualizers and the results look up every label.

    Args:
        inferencer: a BaseInferencer from `load_inferencer`; its lists of names and colours are extended.
        samples: from `predict`.
    """
    count = max(map(_label_count, samples), default=0)
    if hasattr(inferencer, 'classes'):  # of mmpretrain; without names, it shows numbers
        if inferencer.classes:
            inferencer.classes = _with_names(inferencer.classes, count)
        return
    meta = inferencer.model.dataset_meta
    meta['classes'] = _with_names(meta.get('classes') or (), count)
    palette = meta.get('palette')
    is_one_colour = isinstance(palette, (list, tuple)) and any(isinstance(entry, int) for entry in palette)
    if not isinstance(palette, str) and not is_one_colour:
        meta['palette'] = _with_colours(palette or (), len(meta['classes']))


def _dataset_info(cfg: Config, kind: Any) -> dict[str, Any]:
    """Returns the METAINFO of a dataset class."""
    if isinstance(kind, str):
        from importlib import import_module

        kind = import_module(f'{cfg.default_scope}.registry').DATASETS.get(kind)
    return getattr(kind, 'METAINFO', {})


def _label_count(sample: Any) -> int:
    """Returns the highest label of the sample, plus one."""
    if 'pred_instances' in sample:
        labels = sample.pred_instances.labels
    elif 'pred_sem_seg' in sample:
        labels = sample.pred_sem_seg.data
    else:
        return len(sample.pred_score)
    return int(labels.max()) + 1 if labels.numel() else 0


def _with_names(classes: list[str] | tuple[str, ...], count: int) -> list[str]:
    return [*classes, *(f'class {label}' for label in range(len(classes), count))]


def _with_colours(palette: list | tuple, count: int) -> list:
    random = np.random.default_rng(0).integers(0, 256, (count, 3)).tolist()
    return [*palette[:count], *map(tuple, random[len(palette) :])]
