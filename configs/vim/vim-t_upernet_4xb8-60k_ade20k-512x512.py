# Vim-Ti, recipe of the released code, which differs from the paper's: 60K iterations of 32 images, maps of the mixers'
# outputs, sliding windows in tests. Differences:
# - Training starts from the released ImageNet checkpoint, without the position entry of its class token. The official
#   config of Vim-Ti starts from a checkpoint without class token, which was not released, and fails on the released
#   checkpoint.
# - Layer decay is applied to the blocks. The official rule looks for `blocks`, but they are named `layers`, so they
#   keep the full learning rate (paramwise_cfg.layer_decay_rate=1.0 is the closest equivalent).
# - No weight decay for the position embedding. The official code applies it, because its rule compares the name without
#   the prefix `backbone.`.
# - Test images smaller than a window are padded to its size; the official code rejects them.
_base_ = './vim-t_upernet_4xb4-160k_ade20k-512x512.py'

model = dict(
    # Only test images smaller than a window are padded, so padding does not shift any window.
    data_preprocessor=dict(test_cfg=dict(_delete_=True, size={{_base_.crop_size}})),
    backbone=dict(feature='mixer'),
    test_cfg=dict(mode='slide', crop_size=(512, 512), stride=(341, 341)),
)

train_cfg = dict(max_iters=60000, val_interval=1000)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=1500),
    dict(type='PolyLR', eta_min=0.0, power=1.0, begin=0, end=60000, by_epoch=False),
]
optim_wrapper = dict(optimizer=dict(lr=2e-4, weight_decay=0.1), paramwise_cfg=dict(layer_decay_rate=0.92, decay_A=True))
default_hooks = dict(checkpoint=dict(interval=1000, max_keep_ckpts=4, save_best='mIoU'))

train_dataloader = dict(batch_size=8)
auto_scale_lr = dict(base_batch_size=32)
