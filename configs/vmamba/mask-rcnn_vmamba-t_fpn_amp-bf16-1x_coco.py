# The 1x recipe of VMamba-T in bfloat16 autocast, which needs no loss scaling. Not published: the released code trains
# detectors in float32.
_base_ = './mask-rcnn_vmamba-t_fpn_1x_coco.py'

optim_wrapper = dict(type='AmpOptimWrapper', dtype='bfloat16', loss_scale=1.0)
