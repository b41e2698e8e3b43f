# Control of Vim-Ti: DeiT-Ti in the same frame with the same recipe. Every block attends globally; ViTDet, and the
# paper's DeiT-Ti with it, has windows in most. Starts from mmpretrain's training of DeiT-Ti.
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
