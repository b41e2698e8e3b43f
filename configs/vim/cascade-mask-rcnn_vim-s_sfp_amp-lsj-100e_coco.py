# Vim-S, recipe of the released code: that of Vim-Ti. If a checkpoint has a class token, the official code removes the
# first entry of the position embedding instead of that of the token. This config does the same with
# pretrained_cls_slot='official'; 'middle' removes the entry of the token. As for Vim-Ti, the official code starts from
# a checkpoint that was not released. It has a class token and a rotary embedding (79.8 % top-1).
_base_ = './cascade-mask-rcnn_vim-t_sfp_amp-lsj-100e_coco.py'

checkpoint = 'https://huggingface.co/hustvl/Vim-small-midclstok/resolve/main/vim_s_midclstok_80p5acc.pth'
model = dict(
    backbone=dict(arch='small', pretrained_cls_slot='official', init_cfg=dict(checkpoint=checkpoint)),
    neck=dict(in_channels=384),
)
