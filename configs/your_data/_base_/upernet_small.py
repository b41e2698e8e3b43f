# UperNet with a small VMamba that starts from random weights and trains on a CPU.
_base_ = ['../../demo/_base_/upernet.py', '../../demo/_base_/schedule.py', '../../demo/_base_/runtime_seg.py']
custom_imports = dict(imports=['mmvmamba'], allow_failed_imports=False)
model = dict(
    backbone=dict(type='VMamba', arch=dict(dims=32, depths=(1, 1, 2, 1), ssm_ratio=1.0), drop_path_rate=0.0),
    decode_head=dict(in_channels=[32, 64, 128, 256]),
)
