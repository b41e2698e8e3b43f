# Vim-Ti, recipe of the released code, which differs from the paper's: 100 epochs (184,375 iterations) with step decay,
# fp16, a rotary position embedding, layer decay. If fp16 overflows, use --cfg-options optim_wrapper.dtype=bfloat16.
# Differences:
# - Training starts from the released ImageNet checkpoint, which has a class token and was trained without a rotary
#   embedding. The position entry of the class token is removed. The official code starts from a checkpoint without
#   class token and with a rotary embedding, which was not released, and fails to load the released one.
# - No weight decay for norms, biases and D. The official code applies weight decay to everything except the position
#   embedding, because detectron2's exemption of norms covers neither RMSNorm nor its own LayerNorm.
# - Processes exchange gradients in float32; in the official code, in float16.
_base_ = './cascade-mask-rcnn_vim-t_sfp_lsj-380k_coco.py'

model = dict(backbone=dict(rope_grid=14))

train_cfg = dict(max_iters=184375, val_interval=5000)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=250),
    dict(type='MultiStepLR', by_epoch=False, begin=0, end=184375, milestones=[163889, 177546], gamma=0.1),
]
optim_wrapper = dict(
    type='AmpOptimWrapper', loss_scale='dynamic', paramwise_cfg=dict(layer_decay_rate=0.837, decay_A=True)
)
default_hooks = dict(checkpoint=dict(interval=5000))
