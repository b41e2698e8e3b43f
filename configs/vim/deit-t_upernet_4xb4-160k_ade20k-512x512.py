# Baseline for Vim-Ti: DeiT-Ti with the same head and recipe. Starts from mmpretrain's ImageNet weights of DeiT-Ti.
_base_ = './vim-t_upernet_4xb4-160k_ade20k-512x512.py'
custom_imports = dict(imports=['mmpretrain.models', 'mmvmamba'], allow_failed_imports=False)

checkpoint = 'https://mmassets.onedl.ai/mmclassification/v0/deit/deit-tiny_pt-4xb256_in1k_20220218-13b382a0.pth'
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmpretrain.VisionTransformer',
        arch='deit-tiny',
        img_size=512,
        out_type='featmap',
        out_indices=[2, 5, 8, 11],
        final_norm=False,
        drop_path_rate=0.1,
        init_cfg=dict(type='Pretrained', checkpoint=checkpoint, prefix='backbone'),
    )
)
