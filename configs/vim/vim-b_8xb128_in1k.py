# Vim-B with the hyperparameters in the text of the paper (batches of 1024, learning rate 1e-3, weight decay 0.05) and
# drop path 0.1 as in DeiT-B. The official script was not released.
_base_ = './vim-t_8xb128_in1k.py'

model = dict(backbone=dict(arch='base', drop_path_rate=0.1), head=dict(in_channels=768))
optim_wrapper = dict(optimizer=dict(weight_decay=0.05))
