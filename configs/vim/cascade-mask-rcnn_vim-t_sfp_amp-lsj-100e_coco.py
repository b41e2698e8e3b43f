# Vim-Ti, recipe of the released code, which differs from the paper's: 100 epochs (184,375 iterations) in steps, fp16,
# a rotary position embedding, the first entry of the position embedding dropped, layer decay (which did not reach the
# blocks there). Should fp16 overflow: --cfg-options optim_wrapper.dtype=bfloat16.
_base_ = './cascade-mask-rcnn_vim-t_sfp_lsj-380k_coco.py'

model = dict(backbone=dict(rope_grid=14, pretrained_cls_slot='official'))

train_cfg = dict(max_iters=184375, val_interval=10000)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=250),
    dict(type='MultiStepLR', by_epoch=False, begin=0, end=184375, milestones=[163889, 177546], gamma=0.1),
]
optim_wrapper = dict(
    type='AmpOptimWrapper', loss_scale='dynamic', paramwise_cfg=dict(layer_decay_rate=0.837, decay_A=True)
)
default_hooks = dict(checkpoint=dict(interval=10000))
