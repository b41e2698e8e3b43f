# Classification of your own images, with one folder per class: docs/your_data_folders.md
_base_ = './_base_/classifier_small.py'

data_root = 'data/mine/'
classes = ['ball', 'box', 'wedge']  # the names of the folders, sorted
shortest, crop = 256, 224  # shorter side of a resized image, and side of the crop from it, in pixels
iterations = 1000

model = dict(data_preprocessor=dict(num_classes=len(classes)), head=dict(num_classes=len(classes)))

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomResizedCrop', scale=crop, crop_ratio_range=(0.25, 1.0)),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='ResizeEdge', scale=shortest, edge='short'),
    dict(type='CenterCrop', crop_size=crop),
    dict(type='PackInputs'),
]
train_dataloader = dict(
    _delete_=True,
    batch_size=16,
    num_workers=2,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type='CustomDataset', data_root=data_root, data_prefix='training', classes=classes, pipeline=train_pipeline
    ),
)
val_dataloader = dict(
    _delete_=True,
    batch_size=16,
    num_workers=2,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='CustomDataset', data_root=data_root, data_prefix='validation', classes=classes, pipeline=test_pipeline
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='Accuracy', topk=(1,))
test_evaluator = val_evaluator

train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=iterations, val_interval=iterations // 5)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=iterations // 10),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=iterations // 10, end=iterations, eta_min_ratio=0.01),
]
default_hooks = dict(
    checkpoint=dict(by_epoch=False, interval=iterations // 5, max_keep_ckpts=2),
    visualization=dict(interval=1),  # --show-dir of tools/test.py draws every image
)
log_processor = dict(by_epoch=False)
