# Baseline: ResNet-18 with the same heads, data and schedule, to show the effect of the backbone. As in mmdet, its batch
# norms use fixed statistics (norm_eval), here those of a new network, so they only scale and shift.
_base_ = ['./_base_/mask-rcnn_fpn.py', './_base_/coins_instance.py', './_base_/schedule.py', './_base_/runtime_det.py']
model = dict(
    backbone=dict(type='ResNet', depth=18, init_cfg=None),  # random weights
    neck=dict(in_channels=[64, 128, 256, 512]),
)
