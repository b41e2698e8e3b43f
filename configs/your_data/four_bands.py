# Semantic segmentation of TIFF images with four bands and 16 bits, on top of a config for masks:
# docs/your_data_bands.md
_base_ = './masks.py'  # or your copy, './my_masks.py'

bands = 4
load = dict(type='LoadImageFromFile', color_type='unchanged', imdecode_backend='tifffile')
# mean and standard deviation of each band of your images, in their order in the file
normalize = dict(type='Normalize', mean=[1000.0] * bands, std=[500.0] * bands, to_rgb=False)

model = dict(
    data_preprocessor=dict(mean=None, std=None, bgr_to_rgb=False),  # `normalize` replaces its mean and std
    backbone=dict(in_channels=bands),
)
train_pipeline = [
    load,
    dict(type='LoadAnnotations'),
    normalize,
    dict(type='RandomResize', scale=(4 * _base_.shortest, _base_.shortest), ratio_range=(0.5, 1.5), keep_ratio=True),
    dict(type='RandomCrop', crop_size=(_base_.crop, _base_.crop), cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    load,
    normalize,
    dict(type='Resize', scale=(4 * _base_.shortest, _base_.shortest), keep_ratio=True),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
train_dataloader = dict(dataset=dict(img_suffix='.tif', pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(img_suffix='.tif', pipeline=test_pipeline))
test_dataloader = val_dataloader
