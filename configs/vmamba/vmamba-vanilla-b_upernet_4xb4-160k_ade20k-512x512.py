# Vanilla VMamba-B, recipe of the released code: that of VMamba-T with drop path 0.3, which that code inherits from
# Swin. Starts from the ImageNet checkpoint that the authors link; their config uses a different one (drop path 0.5,
# epoch 260), which they do not link.
_base_ = './vmamba-t_upernet_4xb4-160k_ade20k-512x512.py'

checkpoint = 'https://github.com/MzeroMiko/VMamba/releases/download/%23v0cls/vssmbase_dp06_ckpt_epoch_241.pth'
model = dict(
    backbone=dict(arch='vanilla_base', drop_path_rate=0.3, init_cfg=dict(checkpoint=checkpoint)),
    decode_head=dict(in_channels=[128, 256, 512, 1024]),
    auxiliary_head=dict(in_channels=512),
)
