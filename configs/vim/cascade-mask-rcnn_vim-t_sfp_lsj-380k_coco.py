# Vim-Ti with the heads of ViTDet, recipe of the paper: no windows, 380K iterations of 64 images, linear decay. The
# paper does not specify the drop path rate; the value is that of the released code.
_base_ = [
    '../_base_/models/cascade-mask-rcnn_vitdet.py',
    '../_base_/datasets/coco_lsj_1024.py',
    '../_base_/schedules/schedule_lsj_380k.py',
    '../_base_/default_runtime_det.py',
]
custom_imports = dict(imports=['mmpretrain.models', 'mmvmamba'], allow_failed_imports=False)

checkpoint = 'https://huggingface.co/hustvl/Vim-tiny-midclstok/resolve/main/vim_t_midclstok_76p1acc.pth'
model = dict(
    backbone=dict(
        type='Vim',
        arch='tiny',
        img_size=1024,
        drop_path_rate=0.1,
        init_cfg=dict(type='Pretrained', checkpoint=checkpoint),
    ),
    neck=dict(in_channels=192),
)

# The schedule counts iterations, unlike default_runtime_det.py.
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=20000), logger=dict(log_metric_by_epoch=False))
log_processor = dict(by_epoch=False)
