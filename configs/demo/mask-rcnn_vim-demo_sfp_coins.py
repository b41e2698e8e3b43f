# Patches of 8 pixels, so the levels of the pyramid have half the strides of those in the other demos. Coins of 56 to 112
# pixels are pooled from the level with the stride of the patches.
_base_ = [
    './_base_/mask-rcnn_fpn.py', './_base_/coins_instance.py', './_base_/schedule.py', './_base_/runtime_det.py'
]
custom_imports = dict(imports=['mmvmamba'], allow_failed_imports=False)
strides = [2, 4, 8, 16, 32]
model = dict(
    backbone=dict(
        type='Vim',
        arch=dict(embed_dims=96, depth=4),
        img_size=256,
        patch_size=8,
        patch_stride=8,
        init_cfg=None),  # random weights
    neck=dict(_delete_=True, type='SimpleFeaturePyramid', in_channels=96, out_channels=96),
    rpn_head=dict(anchor_generator=dict(scales=[16], strides=strides)),
    roi_head=dict(
        bbox_roi_extractor=dict(featmap_strides=strides[:4], finest_scale=14),
        mask_roi_extractor=dict(featmap_strides=strides[:4], finest_scale=14)))
