# Vim-S, recipe of the released code: that of Vim-Ti, but its Small has a class token, and drops the first entry of the
# position embedding, not that of the token ('middle' is sound).
_base_ = './cascade-mask-rcnn_vim-t_sfp_amp-lsj-100e_coco.py'

checkpoint = 'https://huggingface.co/hustvl/Vim-small-midclstok/resolve/main/vim_s_midclstok_80p5acc.pth'
model = dict(
    backbone=dict(arch='small', pretrained_cls_slot='official', init_cfg=dict(checkpoint=checkpoint)),
    neck=dict(in_channels=384),
)
