# Mask R-CNN with a small VMamba that starts from random weights and trains on a CPU.
_base_ = [
    '../../demo/_base_/mask-rcnn_fpn.py',
    '../../demo/_base_/schedule.py',
    '../../demo/_base_/runtime_det.py',
]
custom_imports = dict(imports=['mmvmamba'], allow_failed_imports=False)
model = dict(
    backbone=dict(type='VMamba', arch=dict(dims=32, depths=(1, 1, 2, 1), ssm_ratio=1.0), drop_path_rate=0.0),
    neck=dict(in_channels=[32, 64, 128, 256]),
)
