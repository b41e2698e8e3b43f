# Vim-Ti+: long-sequence fine-tuning of Vim-Ti with patches that overlap (stride 8, 729 of them), recipe of the released
# code. Its rate of 5e-6 for 512 images, its minimum and its warm-up rate all come to 1e-5 here: a constant. It also
# starts as that code does, to be comparable with the published figure: the first entry of the position embedding stays,
# and the class token's own is resized with the grid. 'middle' would keep each at its place.
_base_ = './vim-t_8xb128_in1k.py'

model = dict(backbone=dict(patch_stride=8, pretrained_cls_slot='official'))
# The whole classifier, not only the backbone.
load_from = 'https://huggingface.co/hustvl/Vim-tiny-midclstok/resolve/main/vim_t_midclstok_76p1acc.pth'

train_cfg = dict(max_epochs=30)
param_scheduler = []
optim_wrapper = dict(optimizer=dict(lr=1e-5, weight_decay=1e-8))
