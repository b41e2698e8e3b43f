# A classifier with a small VMamba that starts from random weights and trains on a CPU.
_base_ = ['../../demo/_base_/classifier.py', '../../demo/_base_/schedule.py', '../../demo/_base_/runtime_cls.py']
custom_imports = dict(imports=['mmvmamba'], allow_failed_imports=False)
model = dict(
    backbone=dict(
        type='VMamba',
        arch=dict(dims=32, depths=(1, 1, 2, 1), ssm_ratio=1.0),
        out_indices=(3,),
        drop_path_rate=0.0,
    ),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(in_channels=256),
)
# Empty, so that a config can replace them with _delete_=True here and under vmamba-t_8xb128_in1k.py.
train_dataloader = dict()
val_dataloader = dict()
test_dataloader = dict()
