_base_ = ['./_base_/classifier.py', './_base_/digits.py', './_base_/schedule_digits.py', './_base_/runtime_cls.py']
custom_imports = dict(imports=['mmvmamba'], allow_failed_imports=False)
model = dict(
    backbone=dict(
        type='Vim',
        arch=dict(embed_dims=64, depth=4),
        img_size=32,
        patch_size=4,
        patch_stride=4,
        pooling='middle',  # a class token in the middle of the sequence
        init_cfg=None,
    ),  # random weights
    head=dict(in_channels=64),
)
