# VMamba-S (s2l15), 3x recipe of VMamba-T with drop path 0.3. Not published for VMamba.
_base_ = './cascade-mask-rcnn_vmamba-t_fpn_4conv1fc-giou_amp-ms-crop-3x_coco.py'

checkpoint = 'https://github.com/MzeroMiko/VMamba/releases/download/%23v2cls/vssm_small_0229_ckpt_epoch_222.pth'
model = dict(backbone=dict(arch='small', drop_path_rate=0.3, init_cfg=dict(checkpoint=checkpoint)))
