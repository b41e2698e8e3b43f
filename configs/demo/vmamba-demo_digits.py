_base_ = ['./_base_/classifier.py', './_base_/digits.py', './_base_/schedule_digits.py', './_base_/runtime_cls.py']
custom_imports = dict(imports=['mmvmamba'], allow_failed_imports=False)
model = dict(
    backbone=dict(
        type='VMamba',
        arch=dict(dims=32, depths=(1, 1, 2, 1), ssm_ratio=1.0),
        out_indices=(2,),  # stride 16; the next map would have a single position
        drop_path_rate=0.0,
        init_cfg=None,
    ),  # random weights
    neck=dict(type='GlobalAveragePooling'),
    head=dict(in_channels=128),
)
