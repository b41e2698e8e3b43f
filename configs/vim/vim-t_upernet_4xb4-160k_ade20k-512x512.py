# Vim-Ti, recipe of the paper: AdamW, 160K iterations of 16 images, tests on whole images with a short side of 512.
# Settings that the paper does not specify: drop path is that of the released code; norms, biases, position embeddings,
# D and A have no weight decay; test images are padded to multiples of 32, so that whole patches cover them.
_base_ = [
    '../_base_/models/upernet.py',
    '../_base_/datasets/ade20k_512.py',
    '../_base_/schedules/schedule_160k.py',
    '../_base_/default_runtime_seg.py',
]

checkpoint = 'https://huggingface.co/hustvl/Vim-tiny-midclstok/resolve/main/vim_t_midclstok_76p1acc.pth'
model = dict(
    data_preprocessor=dict(size={{_base_.crop_size}}, test_cfg=dict(size_divisor=32)),
    backbone=dict(
        type='Vim',
        arch='tiny',
        img_size=512,
        out_indices=(5, 11, 17, 23),
        drop_path_rate=0.1,
        init_cfg=dict(type='Pretrained', checkpoint=checkpoint),
    ),
    neck=dict(type='Feature2Pyramid', embed_dim=192, rescales=[4, 2, 1, 0.5]),
    decode_head=dict(in_channels=[192, 192, 192, 192], channels=192),
    auxiliary_head=dict(in_channels=192),
)

optim_wrapper = dict(constructor='LayerDecayOptimWrapperConstructor', paramwise_cfg=dict(_delete_=True))
