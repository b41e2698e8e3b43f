# Vanilla VMamba-T, recipe of the released code: that of VMamba-T without EMA. The name of the released file says drop
# path 0.1, that code 0.2.
_base_ = './vmamba-t_8xb128_in1k.py'

model = dict(backbone=dict(arch='vanilla_tiny'))

custom_hooks = []
