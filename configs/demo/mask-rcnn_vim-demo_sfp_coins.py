_base_ = ['./_base_/mask-rcnn_fpn.py', './_base_/coins_instance.py', './_base_/schedule.py', './_base_/runtime_det.py']
custom_imports = dict(imports=['mmvmamba'], allow_failed_imports=False)
model = dict(
    backbone=dict(type='Vim', arch=dict(embed_dims=128, depth=6), img_size=256, init_cfg=None),  # random weights
    neck=dict(_delete_=True, type='SimpleFeaturePyramid', in_channels=128, out_channels=96),
)
