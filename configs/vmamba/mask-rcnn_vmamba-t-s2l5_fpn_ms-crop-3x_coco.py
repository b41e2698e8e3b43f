# VMamba-T (s2l5), 3x recipe of the released code: that of VMamba-T (s1l8).
_base_ = './mask-rcnn_vmamba-t_fpn_ms-crop-3x_coco.py'

checkpoint = 'https://github.com/MzeroMiko/VMamba/releases/download/%23v2cls/vssm_tiny_0230_ckpt_epoch_262.pth'
model = dict(backbone=dict(arch='tiny_s2l5', init_cfg=dict(checkpoint=checkpoint)))
