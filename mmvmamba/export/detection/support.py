"""Checks whether a detector of mmdet has the post-processing that this package implements.

The classes are compared by their methods, so a subclass that changes only layers or losses is supported.
"""

from collections.abc import Iterator
from typing import Any

from mmcv.ops import RoIAlign
from mmdet.models.dense_heads import GFLHead, RPNHead, RTMDetInsHead
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmdet.models.detectors import SingleStageDetector, TwoStageDetector
from mmdet.models.roi_heads import CascadeRoIHead, FCNMaskHead, SingleRoIExtractor, StandardRoIHead
from mmdet.models.roi_heads.base_roi_head import BaseRoIHead
from mmdet.models.roi_heads.bbox_heads import BBoxHead
from torch import nn

from .suppression import is_supported_nms

SUPPORTED = 'RetinaNet, FCOS, ATSS, GFL, RTMDet, RTMDet-Ins, Faster R-CNN, Mask R-CNN and Cascade R-CNN'


class UnsupportedDetector(ValueError):
    """A detector, or a setting of its `test_cfg`, that cannot be exported as a whole."""


def check_supported(model: Any) -> None:
    """Raises UnsupportedDetector, which names the part, unless the detector can be exported as a whole."""
    problem = next(_problems(model), None)
    if problem:
        raise UnsupportedDetector(
            f'{problem} cannot be exported with its post-processing, which is that of {SUPPORTED}'
        )


def _problems(model: Any) -> Iterator[str]:
    yield from _overrides(model, ['predict'], SingleStageDetector, TwoStageDetector)
    if not isinstance(model, TwoStageDetector):
        yield from _dense_problems(model.bbox_head)
        return
    yield from _overrides(model.rpn_head, ['predict_by_feat', '_predict_by_feat_single', '_bbox_post_process'], RPNHead)
    yield from _cfg_problems(model.rpn_head.test_cfg)
    yield from _roi_problems(model.roi_head)


def _dense_problems(head: Any) -> Iterator[str]:
    yield from _overrides(head, ['predict', '_bbox_post_process'], BaseDenseHead)
    yield from _overrides(head, ['predict_by_feat'], BaseDenseHead, RTMDetInsHead)
    yield from _overrides(head, ['_predict_by_feat_single'], BaseDenseHead, GFLHead, RTMDetInsHead)
    if isinstance(head, RTMDetInsHead):
        yield from _overrides(head, ['_bbox_mask_post_process', '_mask_predict_by_feat_single'], RTMDetInsHead)
    yield from _cfg_problems(head.test_cfg)


def _roi_problems(head: Any) -> Iterator[str]:
    yield from _overrides(head, ['predict'], BaseRoIHead)
    yield from _overrides(head, ['predict_bbox', '_bbox_forward'], StandardRoIHead, CascadeRoIHead)
    if head.with_shared_head:
        yield f'shared_head of {type(head).__name__}'
    for box_head in stages(head.bbox_head):
        yield from _overrides(box_head, ['predict_by_feat', '_predict_by_feat_single', 'regress_by_class'], BBoxHead)
        if not box_head.with_reg or box_head.custom_activation or box_head.custom_cls_channels:
            yield f'loss_cls={type(box_head.loss_cls).__name__} of {type(box_head).__name__}'
    extractors = stages(head.bbox_roi_extractor)
    if head.with_mask:
        yield from _overrides(head, ['predict_mask', '_mask_forward'], StandardRoIHead, CascadeRoIHead)
        for mask_head in stages(head.mask_head):
            yield from _overrides(mask_head, ['predict_by_feat', '_predict_by_feat_single'], FCNMaskHead)
        extractors = extractors + (stages(head.mask_roi_extractor) if head.mask_roi_extractor else [])
    for extractor in extractors:
        yield from _overrides(extractor, ['forward', 'map_roi_levels'], SingleRoIExtractor)
        for layer in extractor.roi_layers:
            if type(layer) is not RoIAlign or layer.pool_mode != 'avg':
                yield f'roi_layer={layer} of {type(extractor).__name__}'
    yield from _cfg_problems(head.test_cfg)


def _cfg_problems(cfg: Any) -> Iterator[str]:
    if not is_supported_nms(cfg.get('nms')):
        yield f'nms={cfg.get("nms")} of the test_cfg'
    if cfg.get('mask_thr_binary', 0) < 0:
        yield f'mask_thr_binary={cfg.mask_thr_binary} of the test_cfg'


def _overrides(part: Any, methods: list[str], *classes: type) -> Iterator[str]:
    for name in methods:
        if not any(getattr(type(part), name, None) is getattr(cls, name) for cls in classes):
            yield type(part).__name__


def stages(module: nn.Module) -> list[Any]:
    """The modules of all stages of a cascade, or of the only stage."""
    return list(module) if isinstance(module, nn.ModuleList) else [module]
