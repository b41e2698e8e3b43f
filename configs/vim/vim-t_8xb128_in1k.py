# Vim-Ti, recipe of the released code: DeiT's, which augments like Swin's, with weight decay 0.1 and no drop path, in
# float32. Differences:
# - Validation and the choice of the best checkpoint use the averaged weights; there, the plain ones.
# - The rate changes every iteration, by a cosine from epoch 5 to 300; there every epoch, by one that starts at epoch 0.
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
