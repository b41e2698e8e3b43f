# Baseline for Vim-S: DeiT-S with the same head and recipe. Starts from mmpretrain's ImageNet weights of DeiT-S.
_base_ = './deit-t_upernet_4xb4-160k_ade20k-512x512.py'

checkpoint = 'https://mmassets.onedl.ai/mmclassification/v0/deit/deit-small_pt-4xb256_in1k_20220218-9425b9bb.pth'
model = dict(
    backbone=dict(arch='deit-small', init_cfg=dict(checkpoint=checkpoint)),
    neck=dict(embed_dim=384),
    decode_head=dict(in_channels=[384, 384, 384, 384], channels=384),
    auxiliary_head=dict(in_channels=384),
)
