# The ImageNet recipe of VMamba-T in bfloat16 autocast, which needs no loss scaling. Not published: the released code
# autocasts to float16.
_base_ = './vmamba-t_8xb128_in1k.py'

optim_wrapper = dict(dtype='bfloat16', loss_scale=1.0)
