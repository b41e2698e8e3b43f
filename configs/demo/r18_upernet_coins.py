# The control: the same head, data and schedule with a ResNet-18, to see what the backbone brings.
_base_ = ['./_base_/upernet.py', './_base_/coins_semantic.py', './_base_/schedule.py', './_base_/runtime_seg.py']
model = dict(
    backbone=dict(type='ResNet', depth=18, init_cfg=None),  # random weights
    decode_head=dict(in_channels=[64, 128, 256, 512]),
)
