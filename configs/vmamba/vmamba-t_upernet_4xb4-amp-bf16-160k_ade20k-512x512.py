# The 160k recipe of VMamba-T in bfloat16 autocast, which needs no loss scaling. Not published: the released code trains
# segmentors in float32.
_base_ = './vmamba-t_upernet_4xb4-160k_ade20k-512x512.py'

optim_wrapper = dict(type='AmpOptimWrapper', dtype='bfloat16', loss_scale=1.0)
