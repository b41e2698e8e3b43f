# Segmenter with a mask transformer of two layers, for any backbone that returns a single map with stride 16.
# Child configs set `backbone`, `data_preprocessor.size` (the crop size), and in `decode_head` the keys `in_channels`,
# `channels` and `embed_dims` (the channels of this map) and `num_heads` (one head per 64 channels).
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
    ),
    decode_head=dict(
        type='SegmenterMaskTransformerHead',
        num_layers=2,
        num_classes=150,
        dropout_ratio=0.0,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='slide', crop_size=(512, 512), stride=(480, 480)),
)
