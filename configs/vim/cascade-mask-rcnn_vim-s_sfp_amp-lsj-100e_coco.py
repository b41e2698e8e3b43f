# Vim-S, recipe of the released code: that of Vim-Ti. Like the official code, which removes the first position entry of
# a file with a class token and not the token's own, this config sets pretrained_cls_slot='official'; 'middle' removes
# the token's. The file differs as for Vim-Ti: the official one has a class token and a rotary embedding (79.8 % top-1)
# and was not released.
_base_ = './cascade-mask-rcnn_vim-t_sfp_amp-lsj-100e_coco.py'

checkpoint = 'https://huggingface.co/hustvl/Vim-small-midclstok/resolve/main/vim_s_midclstok_80p5acc.pth'
model = dict(
    backbone=dict(arch='small', pretrained_cls_slot='official', init_cfg=dict(checkpoint=checkpoint)),
    neck=dict(in_channels=384),
)
