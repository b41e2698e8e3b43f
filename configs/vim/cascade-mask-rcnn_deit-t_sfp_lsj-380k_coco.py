# Baseline for Vim-Ti: DeiT-Ti with the same heads and recipe. All blocks use global attention, whereas ViTDet, and with
# it the paper's DeiT-Ti, uses window attention in most blocks. Starts from mmpretrain's ImageNet weights of DeiT-Ti.
_base_ = './cascade-mask-rcnn_vim-t_sfp_lsj-380k_coco.py'

checkpoint = 'https://mmassets.onedl.ai/mmclassification/v0/deit/deit-tiny_pt-4xb256_in1k_20220218-13b382a0.pth'
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmpretrain.VisionTransformer',
        arch='deit-tiny',
        img_size=1024,
        out_type='featmap',
        final_norm=False,
        drop_path_rate=0.1,
        init_cfg=dict(type='Pretrained', checkpoint=checkpoint, prefix='backbone'),
    )
)
