# Vanilla VMamba-B, recipe of the released code: that of VMamba-T with drop path 0.6, as in the name of the released
# file and in the official function vanilla_vmamba_base(). The official YAML file sets 0.5.
_base_ = './vmamba-t_8xb128_in1k.py'

model = dict(backbone=dict(arch='vanilla_base', drop_path_rate=0.6), head=dict(in_channels=1024))
