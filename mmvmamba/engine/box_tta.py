"""Test-time augmentation of detectors that also predict masks."""

from mmdet.models.test_time_augs import DetTTAModel
from mmdet.structures import DetDataSample
from mmengine.registry import MODELS


@MODELS.register_module()
class BoxTTAModel(DetTTAModel):
    """DetTTAModel that drops the masks, which it cannot merge, and merges the boxes.

    The arguments are those of DetTTAModel.
    """

    def merge_preds(self, data_samples_list: list[list[DetDataSample]]) -> list[DetDataSample]:
        for views in data_samples_list:
            for sample in views:
                sample.pred_instances.pop('masks', None)
        return super().merge_preds(data_samples_list)
