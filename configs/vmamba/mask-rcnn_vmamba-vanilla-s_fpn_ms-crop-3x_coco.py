# Vanilla VMamba-S, 3x recipe of the released code: that of VMamba-T, with drop path 0.2, which that code inherits
# from Swin-T.
_base_ = './mask-rcnn_vmamba-t_fpn_ms-crop-3x_coco.py'

checkpoint = 'https://github.com/MzeroMiko/VMamba/releases/download/%23v0cls/vssmsmall_dp03_ckpt_epoch_238.pth'
model = dict(backbone=dict(arch='vanilla_small', init_cfg=dict(checkpoint=checkpoint)))
