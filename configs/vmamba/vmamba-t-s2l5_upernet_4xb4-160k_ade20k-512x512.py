# VMamba-T (s2l5), recipe of the released code: that of VMamba-T (s1l8).
_base_ = './vmamba-t_upernet_4xb4-160k_ade20k-512x512.py'

checkpoint = 'https://github.com/MzeroMiko/VMamba/releases/download/%23v2cls/vssm_tiny_0230_ckpt_epoch_262.pth'
model = dict(backbone=dict(arch='tiny_s2l5', init_cfg=dict(checkpoint=checkpoint)))
