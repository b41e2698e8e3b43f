# Vim-Ti, recipe of the released code: DeiT's with Swin's augmentation, weight decay 0.1, no drop path, float32.
# Differences:
# - The averaged weights are validated and select the best checkpoint. The released code uses the raw weights.
# - The learning rate changes every iteration along a cosine from epoch 5 to 300. In the released code, it changes once
#   per epoch, one epoch late, along a cosine that starts at epoch 0.
_base_ = [
    '../_base_/models/image-classifier.py',
    '../_base_/datasets/imagenet_swin_224.py',
    '../_base_/schedules/imagenet_deit_300e.py',
    '../_base_/default_runtime_cls.py',
]

model = dict(
    backbone=dict(type='Vim', arch='tiny', pooling='middle', drop_path_rate=0.0, init_cfg=None),  # random weights
    neck=None,
    head=dict(in_channels=192),
)

optim_wrapper = dict(
    optimizer=dict(weight_decay=0.1), constructor='LayerDecayOptimWrapperConstructor', paramwise_cfg=dict(decay_A=True)
)  # as in the released code

train_dataloader = dict(sampler=dict(type='RepeatAugSampler'))
