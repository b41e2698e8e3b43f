# Vim-S, recipe of the released code: that of Vim-Ti.
_base_ = './cascade-mask-rcnn_vim-t_sfp_amp-lsj-100e_coco.py'

checkpoint = 'https://huggingface.co/hustvl/Vim-small-midclstok/resolve/main/vim_s_midclstok_80p5acc.pth'
model = dict(backbone=dict(arch='small', init_cfg=dict(checkpoint=checkpoint)), neck=dict(in_channels=384))
