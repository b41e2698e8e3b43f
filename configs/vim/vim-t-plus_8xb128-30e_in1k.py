# Vim-Ti+: long-sequence fine-tuning of Vim-Ti with overlapping patches (stride 8, 729 patches), recipe of the released
# code. Its learning rate (5e-6 for 512 images, 1e-5 for 1024), its minimum and its warm-up rate are all 1e-5, so the
# rate is constant. As in that code, the first entry of the position embedding is used for the class token, and the
# token's own entry is resized with the grid; pretrained_cls_slot='middle' assigns both entries correctly.
_base_ = './vim-t_8xb128_in1k.py'

model = dict(backbone=dict(patch_stride=8, pretrained_cls_slot='official'))
# Loads the whole classifier, not only the backbone.
load_from = 'https://huggingface.co/hustvl/Vim-tiny-midclstok/resolve/main/vim_t_midclstok_76p1acc.pth'

train_cfg = dict(max_epochs=30)
param_scheduler = []
optim_wrapper = dict(optimizer=dict(lr=1e-5, weight_decay=1e-8))
