"""Predictions of detectors, segmentors and classifiers with the inferencers of mmdet, mmseg and mmpretrain.

Images are arrays as the test pipeline of the config loads them: BGR (height, width, 3) by default.
"""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.infer import BaseInferencer
from mmengine.registry import TRANSFORMS, init_default_scope
from torch import nn

from ..checkpoint import load_checked, read_checkpoint, unwrap_state_dict
from .class_names import class_info, name_all_labels
from .errors import LaunchError
from .patches.dataset_errors import read_image
from .patches.inferencers import with_checked_weights


def image_loader(cfg: Config) -> Callable[[str | Path], np.ndarray]:
    """Returns a function that reads an image as the test pipeline of a config does.

    Call it before `load_inferencer`, which changes the pipeline.

    Raises:
        LaunchError: the pipeline has no LoadImageFromFile, which the inferencers of mmdet and mmseg need.
        DataError: from the function; it names the file.
    """
    dataset = (cfg.get('test_dataloader') or {}).get('dataset') or {}
    while inner := dataset.get('dataset') or next(iter(dataset.get('datasets') or ()), None):  # such as ConcatDataset
        dataset = inner
    pipeline = dataset.get('pipeline') or []
    step = next((step for step in pipeline if _name(step['type']).endswith('LoadImageFromFile')), None)
    if step is None and cfg.get('default_scope') == 'mmpretrain':  # CIFAR and others have their images in memory
        step = dict(type='LoadImageFromFile')
    if step is None:
        raise LaunchError(
            'test_dataloader.dataset.pipeline of this config has no LoadImageFromFile, with which the demos load images'
        )
    with TRANSFORMS.switch_scope_and_registry(cfg.get('default_scope')) as registry:
        transform = registry.build(dict(step))
    return lambda file: read_image(transform, str(file))


def _name(kind: str | type) -> str:
    return kind if isinstance(kind, str) else kind.__name__


def displayable(image: np.ndarray) -> np.ndarray:
    """Returns an image of any number of bands and type as BGR (height, width, 3), uint8, to draw into it.

    8-bit images of three channels are returned unchanged. Otherwise, the first three bands are red, green and blue, or
    the first one is gray, and their range from the 2nd to the 98th percentile becomes 0 to 255.
    """
    if image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3:
        return image
    bands = image[..., None] if image.ndim == 2 else image
    bands = (bands[..., 2::-1] if bands.shape[2] >= 3 else bands[..., [0, 0, 0]]).astype(np.float32)
    if image.dtype != np.uint8:
        low, high = np.percentile(bands, (2, 98))
        bands = (bands - low) * (255 / max(high - low, 1e-6))
    return np.ascontiguousarray(bands.clip(0, 255).astype(np.uint8))


def load_inferencer(cfg: Config, checkpoint: str, device: str) -> BaseInferencer:
    """Returns the inferencer of the library that the config is for, `ImageClassificationInferencer` for example.

    Args:
        cfg: complete config, from `load_config`.
        checkpoint: file or URL, in any layout that `load_checked` supports. It is read as data.
        device: 'cpu', 'cuda' or 'cuda:1'.

    Raises:
        CheckpointError: the checkpoint is rejected, unreadable, or lacks a tensor of the model.
        LaunchError: the config is for another library, or the model for another task.
    """
    load = {'mmdet': _load_detector, 'mmseg': _load_segmentor, 'mmpretrain': _load_classifier}.get(
        cfg.get('default_scope')
    )
    if load is None:
        raise LaunchError(
            f'default_scope of this config is {cfg.get("default_scope")}: it must be mmdet, mmseg or mmpretrain'
        )
    cfg.get('visualizer', {}).pop('vis_backends', None)  # there is no work dir for logs
    content = read_checkpoint(checkpoint)
    state_dict = unwrap_state_dict(content, checkpoint)
    info = class_info(cfg, content.get('meta'))
    return load(cfg, lambda model: load_checked(model, state_dict, checkpoint), info, device)


def _load_detector(cfg, load_weights, info, device):
    from mmdet.apis import DetInferencer

    cfg.setdefault('visualizer', dict(type='DetLocalVisualizer'))
    return with_checked_weights(DetInferencer, load_weights, info)(cfg, device=device, show_progress=False)


def _load_segmentor(cfg, load_weights, info, device):
    from mmseg.apis import MMSegInferencer

    cfg.setdefault('visualizer', dict(type='SegLocalVisualizer'))
    inferencer = with_checked_weights(MMSegInferencer, load_weights, info)(cfg, device=device)
    inferencer.show_progress = False  # the original mmseg has no argument for it
    return inferencer


def _load_classifier(cfg, load_weights, info, device):
    from mmpretrain import ImageClassificationInferencer, get_model
    from mmpretrain.utils import progress
    from mmpretrain.visualization import UniversalVisualizer

    progress.disable_progress_bar = True
    init_default_scope('mmpretrain')  # DetInferencer and MMSegInferencer do so themselves
    model: Any = get_model(cfg, pretrained=False)
    _check_is_classifier(model)
    load_weights(model)
    inferencer = ImageClassificationInferencer(model, device=device, classes=info.get('classes'))
    inferencer.visualizer = UniversalVisualizer()
    return inferencer


def _check_is_classifier(model: nn.Module) -> None:
    import mmpretrain.models as models

    # the original mmpretrain has no RegressionHead
    others = tuple(getattr(models, name) for name in ('MultiTaskHead', 'RegressionHead') if hasattr(models, name))
    head = getattr(model, 'head', None)
    if not isinstance(model, models.BaseClassifier) or isinstance(head, others):
        kind = type(head if isinstance(model, models.BaseClassifier) else model).__name__
        raise LaunchError(
            f'{kind} does not classify images: the demos support detectors, segmentors and classifiers; evaluate '
            'this model with tools/test.py'
        )


def predict(inferencer: BaseInferencer, images: list[np.ndarray]) -> list[Any]:
    """Returns the data sample of each image. Boxes, masks and labels are in pixels of the original image.

    Raises:
        LaunchError: the model predicts neither objects, nor a class for each pixel, nor a class of the image.
    """
    found = inferencer(images, batch_size=len(images), return_datasamples=True)
    if isinstance(found, dict):  # mmdet
        found = found['predictions']
    samples = found if isinstance(found, list) else [found]  # mmseg returns a single sample for one image
    for sample in samples:
        if not any(key in sample for key in ('pred_instances', 'pred_sem_seg', 'pred_score')):
            raise LaunchError(
                f'{type(inferencer.model).__name__} predicts {", ".join(sample.keys()) or "nothing"}: the demos '
                'support detectors, segmentors and classifiers; evaluate this model with tools/test.py'
            )
    name_all_labels(inferencer, samples)
    return samples


def draw(inferencer: BaseInferencer, image: np.ndarray, sample: Any, score_thr: float, opacity: float) -> np.ndarray:
    """Returns the image with the predictions, BGR (height, width, 3), uint8.

    Args:
        inferencer: from `load_inferencer`.
        image: the input image, (height, width) or (height, width, bands).
        sample: from `predict`.
        score_thr: lowest score of an object, or of a label of a multi-label classifier.
        opacity: of the class colours of a segmentor, 0 to 1.
    """
    image = displayable(image)[..., ::-1]  # the visualizers expect RGB
    if 'pred_instances' in sample:
        [picture] = inferencer.visualize([image], [sample], return_vis=True, pred_score_thr=score_thr)
    elif 'pred_sem_seg' in sample:
        [picture] = inferencer.visualize([image], [sample], return_vis=True, opacity=opacity)
    else:
        labels = torch.tensor(_labels(inferencer, sample, score_thr), dtype=torch.long)
        sample = sample.clone().set_pred_label(labels)
        classifier: Any = inferencer  # an ImageClassificationInferencer
        picture = classifier.visualizer.visualize_cls(image, sample, classes=classifier.classes)
    return np.ascontiguousarray(picture[..., ::-1])


def class_map(sample: Any) -> np.ndarray:
    """What a segmentor found: the number of each pixel's class, (height, width), uint8 or, beyond 255, uint16."""
    classes = sample.pred_sem_seg.data[0].cpu().numpy()
    return classes.astype(np.uint8 if classes.max() < 256 else np.uint16)


def classification(inferencer: BaseInferencer, sample: Any, score_thr: float) -> dict[str, Any]:
    """Returns the prediction of a classifier: `label`, `score`, and `class` if the checkpoint or config has names.

    For a multi-label classifier, `labels` is a list of these with at least `score_thr`, highest score first.
    """
    names = getattr(inferencer, 'classes', None)
    found = [
        dict(label=label, score=float(sample.pred_score[label]), **({'class': names[label]} if names else {}))
        for label in _labels(inferencer, sample, score_thr)
    ]
    return dict(labels=found) if _is_multi_label(inferencer) else found[0]


def summary(inferencer: BaseInferencer, sample: Any, score_thr: float) -> str:
    """Describes a prediction in a line: objects per class, the share of each class, or labels with their scores."""
    model: Any = inferencer.model
    if 'pred_instances' in sample:
        found, classes = sample.pred_instances, model.dataset_meta['classes']
        counts = Counter(classes[label] for label in found.labels[found.scores >= score_thr].tolist())
        return ', '.join(f'{count} {name}' for name, count in counts.most_common()) or f'nothing above {score_thr:.2f}'
    if 'pred_sem_seg' in sample:
        labels, classes = class_map(sample), model.dataset_meta['classes']
        shares = Counter({classes[label]: (labels == label).mean() for label in np.unique(labels)})
        return ', '.join(f'{share:.1%} {name}' for name, share in shares.most_common())
    found = classification(inferencer, sample, score_thr)
    labels = found.get('labels', [found])
    return (
        ', '.join(f'{each.get("class", each["label"])} ({each["score"]:.2f})' for each in labels)
        or f'nothing above {score_thr:.2f}'
    )


def _labels(inferencer: BaseInferencer, sample: Any, score_thr: float) -> list[int]:
    if not _is_multi_label(inferencer):
        return [int(sample.pred_label)]
    labels = sample.pred_score.argsort(descending=True)
    return labels[sample.pred_score[labels] >= score_thr].tolist()


def _is_multi_label(inferencer: BaseInferencer) -> bool:
    from mmpretrain.models import MultiLabelClsHead

    return isinstance(getattr(inferencer.model, 'head', None), MultiLabelClsHead)
