# Vim-Ti with a Segmenter head of two layers, as in the paper's ablations. The paper does not specify a recipe: training
# follows its UperNet recipe, and tests use mmseg's sliding windows for Segmenter.
_base_ = [
    '../_base_/models/segmenter.py',
    '../_base_/datasets/ade20k_512.py',
    '../_base_/schedules/schedule_160k.py',
    '../_base_/default_runtime_seg.py',
]

checkpoint = 'https://huggingface.co/hustvl/Vim-tiny-midclstok/resolve/main/vim_t_midclstok_76p1acc.pth'
model = dict(
    # Only test images smaller than a window are padded, so padding does not shift any window.
    data_preprocessor=dict(size={{_base_.crop_size}}, test_cfg=dict(size={{_base_.crop_size}})),
    backbone=dict(
        type='Vim',
        arch='tiny',
        img_size=512,
        drop_path_rate=0.1,
        init_cfg=dict(type='Pretrained', checkpoint=checkpoint),
    ),
    decode_head=dict(in_channels=192, channels=192, embed_dims=192, num_heads=3),
)

optim_wrapper = dict(constructor='LayerDecayOptimWrapperConstructor', paramwise_cfg=dict(_delete_=True))
