_base_ = ['./_base_/upernet.py', './_base_/coins_semantic.py', './_base_/schedule.py', './_base_/runtime_seg.py']
custom_imports = dict(imports=['mmvmamba'], allow_failed_imports=False)
model = dict(
    backbone=dict(
        type='Vim',
        arch=dict(embed_dims=96, depth=4),
        img_size=256,
        patch_size=8,
        patch_stride=8,
        out_indices=(0, 1, 2, 3),
        init_cfg=None,
    ),  # random weights
    neck=dict(
        type='Feature2Pyramid', embed_dim=96, rescales=[2, 1, 0.5, 0.25], norm_cfg=dict(type='GN', num_groups=16)
    ),
    decode_head=dict(in_channels=[96, 96, 96, 96]),
)
