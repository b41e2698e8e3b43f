# VMamba-S (s2l15), recipe of the released code: that of VMamba-T with drop path 0.3.
_base_ = './vmamba-t_8xb128_in1k.py'

model = dict(backbone=dict(arch='small', drop_path_rate=0.3))
