# VMamba-T (s2l5), recipe of the released code: that of VMamba-T (s1l8).
_base_ = './vmamba-t_8xb128_in1k.py'

model = dict(backbone=dict(arch='tiny_s2l5'))
