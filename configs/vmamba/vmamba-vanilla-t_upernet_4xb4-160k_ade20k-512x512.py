# Vanilla VMamba-T, recipe of the released code: that of VMamba-T with drop path 0.3, which that code inherits from
# Swin.
_base_ = './vmamba-t_upernet_4xb4-160k_ade20k-512x512.py'

checkpoint = 'https://github.com/MzeroMiko/VMamba/releases/download/%23v0cls/vssmtiny_dp01_ckpt_epoch_292.pth'
model = dict(backbone=dict(arch='vanilla_tiny', drop_path_rate=0.3, init_cfg=dict(checkpoint=checkpoint)))
