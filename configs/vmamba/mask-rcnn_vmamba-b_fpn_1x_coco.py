# VMamba-B (s2l15), recipe of the released code: that of VMamba-T with drop path 0.6. Total batch 16; the run published
# as "bs8" is not this one.
_base_ = './mask-rcnn_vmamba-t_fpn_1x_coco.py'

checkpoint = 'https://github.com/MzeroMiko/VMamba/releases/download/%23v2cls/vssm_base_0229_ckpt_epoch_237.pth'
model = dict(
    backbone=dict(arch='base', drop_path_rate=0.6, init_cfg=dict(checkpoint=checkpoint)),
    neck=dict(in_channels=[128, 256, 512, 1024]),
)
