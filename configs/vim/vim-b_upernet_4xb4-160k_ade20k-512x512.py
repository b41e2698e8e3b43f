# Vim-B with the paper's recipe for Vim-Ti. The paper does not use Vim-B for segmentation.
_base_ = './vim-t_upernet_4xb4-160k_ade20k-512x512.py'

checkpoint = 'https://huggingface.co/hustvl/Vim-base-midclstok/resolve/main/vim_b_midclstok_81p9acc.pth'
model = dict(
    backbone=dict(arch='base', init_cfg=dict(checkpoint=checkpoint)),
    neck=dict(embed_dim=768),
    decode_head=dict(in_channels=[768, 768, 768, 768], channels=768),
    auxiliary_head=dict(in_channels=768),
)
