# Vanilla VMamba-T, recipe of the released code: that of VMamba-T, but without EMA, as stated in the official README.
# Drop path is 0.2 as in the official YAML file; the name of the released checkpoint contains 0.1.
_base_ = './vmamba-t_8xb128_in1k.py'

model = dict(backbone=dict(arch='vanilla_tiny'))

custom_hooks = []
