# Vim-S with the paper's recipe for Vim-Ti. The paper does not use Vim-S for detection.
_base_ = './cascade-mask-rcnn_vim-t_sfp_lsj-380k_coco.py'

checkpoint = 'https://huggingface.co/hustvl/Vim-small-midclstok/resolve/main/vim_s_midclstok_80p5acc.pth'
model = dict(backbone=dict(arch='small', init_cfg=dict(checkpoint=checkpoint)), neck=dict(in_channels=384))
