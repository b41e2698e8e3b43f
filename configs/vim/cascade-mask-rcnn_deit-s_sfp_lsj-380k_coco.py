# Baseline for Vim-S: DeiT-S with the same heads and recipe. Starts from mmpretrain's ImageNet weights of DeiT-S.
_base_ = './cascade-mask-rcnn_deit-t_sfp_lsj-380k_coco.py'

checkpoint = 'https://mmassets.onedl.ai/mmclassification/v0/deit/deit-small_pt-4xb256_in1k_20220218-9425b9bb.pth'
model = dict(backbone=dict(arch='deit-small', init_cfg=dict(checkpoint=checkpoint)), neck=dict(in_channels=384))
