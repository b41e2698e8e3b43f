"""Images to what was found in them, through the inferencers of mmdet, mmseg and mmpretrain.

Images are arrays (height, width, 3), blue first, as OpenCV reads them.
"""

from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.infer import BaseInferencer
from mmengine.registry import init_default_scope

from ..checkpoint import load_checked, read_checkpoint, unwrap_state_dict
from .errors import LaunchError


def load_inferencer(cfg: Config, checkpoint: str, device: str) -> BaseInferencer:
    """The inferencer of the library that the config is for, `ImageClassificationInferencer` for instance.

    Args:
        cfg: complete config, from `load_config`.
        checkpoint: file or URL; read as data inside `launching`, whatever the library does.
        device: 'cpu', 'cuda' or 'cuda:1'.

    Raises:
        CheckpointError: the checkpoint is refused, unreadable, or has not all tensors of the model. The libraries go on
            with a file that fits nowhere.
        LaunchError: the config is for none of the three.
    """
    scope = cfg.get('default_scope')
    cfg.get('visualizer', {}).pop('vis_backends', None)  # nothing is logged to a work dir
    state_dict = unwrap_state_dict(read_checkpoint(checkpoint), checkpoint)
    if scope == 'mmdet':
        from mmdet.apis import DetInferencer

        cfg.setdefault('visualizer', dict(type='DetLocalVisualizer'))
        inferencer = DetInferencer(cfg, checkpoint, device, show_progress=False)
    elif scope == 'mmseg':
        from mmseg.apis import MMSegInferencer

        cfg.setdefault('visualizer', dict(type='SegLocalVisualizer'))
        inferencer = MMSegInferencer(cfg, checkpoint, device=device)
        inferencer.show_progress = False  # no argument of the original
    elif scope == 'mmpretrain':
        from mmpretrain import ImageClassificationInferencer
        from mmpretrain.utils import progress
        from mmpretrain.visualization import UniversalVisualizer

        progress.disable_progress_bar = True
        init_default_scope(scope)  # as the two others do
        inferencer = ImageClassificationInferencer(cfg, checkpoint, device)
        inferencer.visualizer = UniversalVisualizer()
    else:
        raise LaunchError(
            f'default_scope of this config is {scope}: it must be mmdet, mmseg or mmpretrain, to say whose model it is'
        )
    load_checked(inferencer.model, state_dict, checkpoint)
    return inferencer


def predict(inferencer: BaseInferencer, images: list[np.ndarray]) -> list[Any]:
    """The library's data sample of each image: boxes, masks and labels are in the image's own pixels."""
    found = inferencer(images, batch_size=len(images), return_datasamples=True)
    if isinstance(found, dict):  # mmdet's
        found = found['predictions']
    return found if isinstance(found, list) else [found]  # mmseg's, of one image


def draw(inferencer: BaseInferencer, image: np.ndarray, sample: Any, score_thr: float, opacity: float) -> np.ndarray:
    """The image with what was found drawn in, in the same size.

    Args:
        inferencer: from `load_inferencer`.
        image: that was looked at.
        sample: from `predict`.
        score_thr: least score of an object.
        opacity: of the colours of classes, 0 to 1.
    """
    image = image[..., ::-1]  # the visualizers have red first
    if 'pred_instances' in sample:
        [picture] = inferencer.visualize([image], [sample], return_vis=True, pred_score_thr=score_thr)
    elif 'pred_sem_seg' in sample:
        [picture] = inferencer.visualize([image], [sample], return_vis=True, opacity=opacity)
    else:
        picture = inferencer.visualizer.visualize_cls(image, sample, classes=inferencer.classes)
    return np.ascontiguousarray(picture[..., ::-1])


def class_map(sample: Any) -> np.ndarray:
    """What a segmentor found: the number of each pixel's class, (height, width), uint8 or, beyond 255, uint16."""
    classes = sample.pred_sem_seg.data[0].cpu().numpy()
    return classes.astype(np.uint8 if classes.max() < 256 else np.uint16)


def best_class(inferencer: BaseInferencer, sample: Any) -> dict[str, Any]:
    """What a classifier found: `label`, `score`, and the name of the `class`, if checkpoint or config know it."""
    label = int(sample.pred_label)
    known = {'class': inferencer.classes[label]} if inferencer.classes else {}
    return dict(label=label, score=float(sample.pred_score[label]), **known)
