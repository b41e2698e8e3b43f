# Detection and instance segmentation of your own images, annotated in COCO format: docs/your_data_instances.md
_base_ = './_base_/mask-rcnn_small.py'

data_root = 'data/mine/'
classes = ('ball', 'box', 'wedge')  # the names in `categories` of the annotation files, in their order
longest, shortest = 512, 320  # images are resized to fit into these sides, in pixels
iterations = 1000

model = dict(roi_head=dict(bbox_head=dict(num_classes=len(classes)), mask_head=dict(num_classes=len(classes))))

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='RandomResize', scale=(longest, shortest), ratio_range=(0.8, 1.25), keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(longest, shortest), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
train_dataloader = dict(
    batch_size=2,
    num_workers=2,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type='CocoDataset',
        data_root=data_root,
        metainfo=dict(classes=classes, palette=None),  # None: random colours
        ann_file='training.json',
        data_prefix=dict(img='images/'),
        filter_cfg=dict(filter_empty_gt=False),  # also train on images without objects
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=2,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='CocoDataset',
        data_root=data_root,
        metainfo=dict(classes=classes, palette=None),
        ann_file='validation.json',
        data_prefix=dict(img='images/'),
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='CocoMetric', ann_file=data_root + 'validation.json', metric=['bbox', 'segm'])
test_evaluator = val_evaluator

train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=iterations, val_interval=iterations // 5)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=iterations // 10),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=iterations // 10, end=iterations, eta_min_ratio=0.01),
]
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=iterations // 5, max_keep_ckpts=2))
log_processor = dict(by_epoch=False)
