# Vim-S+: long-sequence fine-tuning of Vim-S, recipe of the released code, which is the same as for Vim-Ti+.
_base_ = './vim-t-plus_8xb128-30e_in1k.py'

model = dict(backbone=dict(arch='small'), head=dict(in_channels=384))
load_from = 'https://huggingface.co/hustvl/Vim-small-midclstok/resolve/main/vim_s_midclstok_80p5acc.pth'
