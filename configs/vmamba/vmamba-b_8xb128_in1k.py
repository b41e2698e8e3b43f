# VMamba-B (s2l15), recipe of the released code: that of VMamba-T with drop path 0.6.
_base_ = './vmamba-t_8xb128_in1k.py'

model = dict(backbone=dict(arch='base', drop_path_rate=0.6), head=dict(in_channels=1024))
