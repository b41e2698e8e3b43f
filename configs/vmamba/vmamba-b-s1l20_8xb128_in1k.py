# VMamba-B (s1l20), recipe of the released code: that of VMamba-T with drop path 0.5.
_base_ = './vmamba-t_8xb128_in1k.py'

model = dict(backbone=dict(arch='base_s1l20', drop_path_rate=0.5), head=dict(in_channels=1024))
