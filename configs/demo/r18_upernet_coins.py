# Baseline: ResNet-18 with the same head, data and schedule, to show the effect of the backbone.
_base_ = ['./_base_/upernet.py', './_base_/coins_semantic.py', './_base_/schedule.py', './_base_/runtime_seg.py']
model = dict(
    backbone=dict(type='ResNet', depth=18, init_cfg=None),  # random weights
    decode_head=dict(in_channels=[64, 128, 256, 512]),
)
