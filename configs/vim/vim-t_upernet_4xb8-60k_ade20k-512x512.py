# Vim-Ti, recipe of the released code, which differs from the paper's: 60K iterations of 32 images, maps that show the
# mixers' outputs, the first entry of the position embedding dropped. Layer decay does here what its name says; the
# released one left the blocks alone (paramwise_cfg.layer_decay_rate=1.0 comes nearest to that).
_base_ = './vim-t_upernet_4xb4-160k_ade20k-512x512.py'

model = dict(
    backbone=dict(feature='mixer', pretrained_cls_slot='official'),
    test_cfg=dict(mode='slide', crop_size=(512, 512), stride=(341, 341)),
)

train_cfg = dict(max_iters=60000, val_interval=6000)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=1500),
    dict(type='PolyLR', eta_min=0.0, power=1.0, begin=1500, end=60000, by_epoch=False),
]
optim_wrapper = dict(optimizer=dict(lr=2e-4, weight_decay=0.1), paramwise_cfg=dict(layer_decay_rate=0.92, decay_A=True))
default_hooks = dict(checkpoint=dict(interval=6000))

train_dataloader = dict(batch_size=8)
auto_scale_lr = dict(base_batch_size=32)
