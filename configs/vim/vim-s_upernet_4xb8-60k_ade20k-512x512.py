# Vim-S, recipe of the released code: that of Vim-Ti with different learning rates, maps of the residual stream, and a
# rotary position embedding, which the released ImageNet checkpoint was not trained with. Two quirks of the official
# code are kept: all maps except the last are already rotated by the rotary embedding of the next block
# (feature='residual' avoids this), and the first entry of the position embedding is removed instead of that of the
# class token (pretrained_cls_slot='middle' avoids this).
_base_ = './vim-t_upernet_4xb8-60k_ade20k-512x512.py'

checkpoint = 'https://huggingface.co/hustvl/Vim-small-midclstok/resolve/main/vim_s_midclstok_80p5acc.pth'
model = dict(
    backbone=dict(
        arch='small',
        feature='residual_official',
        pretrained_cls_slot='official',
        rope_grid=14,
        init_cfg=dict(checkpoint=checkpoint),
    ),
    neck=dict(embed_dim=384),
    decode_head=dict(in_channels=[384, 384, 384, 384], channels=384),
    auxiliary_head=dict(in_channels=384),
)

optim_wrapper = dict(optimizer=dict(lr=1e-4, weight_decay=0.05), paramwise_cfg=dict(layer_decay_rate=0.95))
