"""Describes an exported file: its task, its classes, and how the test pipeline of the config prepares an image.

The description is the property `mmvmamba` of an ONNX file, in JSON. Programs that have no config, such as
`tools/deployment/serving`, read it.
"""

import json
from collections.abc import Mapping
from typing import Any

from mmengine.config import Config

# The transforms of test pipelines that change an image, and their arguments that the description contains.
RESIZING = {
    'Resize': ('scale', 'scale_factor', 'keep_ratio', 'interpolation', 'backend'),
    'ResizeEdge': ('scale', 'edge', 'interpolation', 'backend'),
    'CenterCrop': ('crop_size',),
}
NO_CHANGE = ('LoadAnnotations', 'PackInputs', 'PackDetInputs', 'PackSegInputs')


def describe(cfg: Config, task: str, class_info: Mapping[str, Any]) -> str:
    """Returns the description in JSON.

    Its keys are `task`, `classes` and `palette` (null if unknown), `multi_label` (whether a classifier has
    independent classes), `steps` (the transforms of the test pipeline that resize or crop, with their arguments) and
    `pad` (the size or the divisor, and the RGB values). If the pipeline has other transforms, `steps` is null, and
    `unsupported` names the first of them.
    """
    steps, unsupported = [], None
    for step in test_pipeline(cfg):
        name = str(step['type'] if isinstance(step['type'], str) else step['type'].__name__).rpartition('.')[2]
        loads_otherwise = name == 'LoadImageFromFile' and (
            step.get('color_type', 'color') != 'color' or step.get('imdecode_backend', 'cv2') != 'cv2'
        )
        if name in RESIZING:
            steps.append({'type': name} | {key: step[key] for key in RESIZING[name] if step.get(key) is not None})
        elif loads_otherwise or name not in (
            'LoadImageFromFile',
            *NO_CHANGE,
            *(['Pad'] if task == 'detection' else []),
        ):
            unsupported = unsupported or name
    head = cfg['model'].get('head') or {}
    description = dict(
        task=task,
        classes=class_info.get('classes'),
        palette=class_info.get('palette'),
        multi_label='MultiLabel' in str(head.get('type')),
        steps=None if unsupported else steps,
        unsupported=unsupported,
        pad=None if cfg.get('default_scope') == 'mmdet' else _padding(cfg),  # a detector pads in the file
    )
    return json.dumps(description)


def test_pipeline(cfg: Config) -> list[Any]:
    """Returns the transforms of the test dataset, also if another dataset wraps it."""
    dataset = (cfg.get('test_dataloader') or {}).get('dataset') or {}
    while inner := dataset.get('dataset') or next(iter(dataset.get('datasets') or ()), None):  # such as ConcatDataset
        dataset = inner
    return dataset.get('pipeline') or []


def _padding(cfg: Config) -> dict[str, Any] | None:
    """The padding at the right and at the bottom. The file normalises afterwards, so the values are not normalised."""
    settings = cfg['model'].get('data_preprocessor') or cfg.get('data_preprocessor') or {}
    sizes = settings.get('test_cfg') or {}
    size, divisor = sizes.get('size'), sizes.get('size_divisor', settings.get('pad_size_divisor', 1))
    if size is None and divisor in (None, 1):
        return None
    value = settings.get('pad_val', settings.get('pad_value', 0))
    mean, std = settings.get('mean') or [0.0] * 3, settings.get('std') or [1.0] * 3
    rgb = [m + value * s for m, s in zip(mean, std)]
    if not settings.get('bgr_to_rgb', settings.get('to_rgb', False)):
        rgb.reverse()
    return dict(size=size, divisor=divisor, values=rgb)
