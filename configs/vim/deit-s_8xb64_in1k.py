# Baseline for Vim-S: DeiT-S with the same recipe.
_base_ = './vim-s_8xb64_in1k.py'

model = dict(
    backbone=dict(_delete_=True, type='VisionTransformer', arch='deit-small', drop_path_rate=0.05),
    init_cfg=[dict(type='TruncNormal', layer='Linear', std=0.02), dict(type='Constant', layer='LayerNorm', val=1.0)],
)
