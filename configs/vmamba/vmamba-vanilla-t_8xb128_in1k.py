# Vanilla VMamba-T, recipe of the released code: that of VMamba-T, but without EMA, as the official README says. Drop
# path is that of the official YAML file, 0.2; the name of the released file says 0.1.
_base_ = './vmamba-t_8xb128_in1k.py'

model = dict(backbone=dict(arch='vanilla_tiny'))

custom_hooks = []
