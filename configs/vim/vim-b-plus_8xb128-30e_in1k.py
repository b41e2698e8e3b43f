# Vim-B+: long-sequence fine-tuning of Vim-B with the recipe of Vim-Ti+. The official script was not released.
_base_ = './vim-t-plus_8xb128-30e_in1k.py'

model = dict(backbone=dict(arch='base'), head=dict(in_channels=768))
load_from = 'https://huggingface.co/hustvl/Vim-base-midclstok/resolve/main/vim_b_midclstok_81p9acc.pth'
