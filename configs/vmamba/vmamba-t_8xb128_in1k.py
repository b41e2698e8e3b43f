# VMamba-T (s1l8), recipe of the released code: that of Swin, with float16 autocast and averaged weights (EMA).
# Difference: the averaged weights are validated and select the best checkpoint; the released code validates both.
_base_ = [
    '../_base_/models/image-classifier.py',
    '../_base_/datasets/imagenet_swin_224.py',
    '../_base_/schedules/imagenet_swin_300e.py',
    '../_base_/default_runtime_cls.py',
]

model = dict(
    backbone=dict(type='VMamba', arch='tiny', out_indices=(3,), drop_path_rate=0.2), head=dict(in_channels=768)
)

# Validation uses the averaged weights, with decay 0.9999.
custom_hooks = [dict(type='EMAHook', momentum=1e-4, priority='ABOVE_NORMAL')]
