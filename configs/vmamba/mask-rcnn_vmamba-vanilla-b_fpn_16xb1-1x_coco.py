# Vanilla VMamba-B, recipe of the released code: that of VMamba-T with drop path 0.2, inherited from Swin-T, on 16
# GPUs with one image each. Starts from the ImageNet checkpoint that the authors link; their config uses a different one
# (drop path 0.5, epoch 260), which they do not link.
_base_ = './mask-rcnn_vmamba-t_fpn_1x_coco.py'

checkpoint = 'https://github.com/MzeroMiko/VMamba/releases/download/%23v0cls/vssmbase_dp06_ckpt_epoch_241.pth'
model = dict(
    backbone=dict(arch='vanilla_base', init_cfg=dict(checkpoint=checkpoint)),
    neck=dict(in_channels=[128, 256, 512, 1024]),
)

train_dataloader = dict(batch_size=1)  # x 16 GPUs = 16
