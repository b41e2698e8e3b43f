# Baseline: ResNet-18 at half width with the same data and schedule, to show the effect of the backbone.
_base_ = ['./_base_/classifier.py', './_base_/digits.py', './_base_/schedule_digits.py', './_base_/runtime_cls.py']
model = dict(
    backbone=dict(type='ResNet', depth=18, stem_channels=32, base_channels=32),  # random weights
    neck=dict(type='GlobalAveragePooling'),
    head=dict(in_channels=256),
)
