# Semantic segmentation of your own images, with one mask per image: docs/your_data_masks.md
_base_ = './_base_/upernet_small.py'

data_root = 'data/mine/'
classes = ('ground', 'ball', 'box')  # the names of the pixel values 0, 1, 2, ... of the masks
shortest, crop = 320, 256  # shorter side of a resized image, and side of a training crop, in pixels
iterations = 1000

model = dict(
    data_preprocessor=dict(size=(crop, crop)),
    decode_head=dict(num_classes=len(classes)),
)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='RandomResize', scale=(4 * shortest, shortest), ratio_range=(0.5, 1.5), keep_ratio=True),
    dict(type='RandomCrop', crop_size=(crop, crop), cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(4 * shortest, shortest), keep_ratio=True),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
dataset = dict(
    type='BaseSegDataset',
    data_root=data_root,
    metainfo=dict(classes=classes),
    img_suffix='.jpg',
    seg_map_suffix='.png',
)
train_dataloader = dict(
    batch_size=2,
    num_workers=2,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        data_prefix=dict(img_path='images/training', seg_map_path='masks/training'), pipeline=train_pipeline, **dataset
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=2,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        data_prefix=dict(img_path='images/validation', seg_map_path='masks/validation'),
        pipeline=test_pipeline,
        **dataset,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator

train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=iterations, val_interval=iterations // 5)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=iterations // 10),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=iterations // 10, end=iterations, eta_min_ratio=0.01),
]
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=iterations // 5, max_keep_ckpts=2))
log_processor = dict(by_epoch=False)
