# Baseline for Vim-Ti: DeiT-Ti with the same recipe.
_base_ = './vim-t_8xb128_in1k.py'

model = dict(
    backbone=dict(_delete_=True, type='VisionTransformer', arch='deit-tiny', drop_path_rate=0.0),
    init_cfg=[dict(type='TruncNormal', layer='Linear', std=0.02), dict(type='Constant', layer='LayerNorm', val=1.0)],
)
