# Vim-S, recipe of the released code: batches of 512 at the same learning rate, weight decay 0.05, drop path 0.05.
_base_ = './vim-t_8xb128_in1k.py'

model = dict(backbone=dict(arch='small', drop_path_rate=0.05), head=dict(in_channels=384))
optim_wrapper = dict(optimizer=dict(weight_decay=0.05))
train_dataloader = dict(batch_size=64)
auto_scale_lr = dict(base_batch_size=512)
