# Swin's ImageNet recipe as used by VMamba's code: AdamW, 300 epochs, cosine, total batch 1024, float16 autocast.
train_cfg = dict(by_epoch=True, max_epochs=300, val_interval=1)
val_cfg = dict()
test_cfg = dict()

# lr = 5e-4 * 1024 / 512; both schedulers step every iteration
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=True, begin=0, end=20, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=1e-5, by_epoch=True, begin=20, end=300, convert_to_iter_based=True),
]

# No weight decay for biases and one-dimensional parameters, including norms.
optim_wrapper = dict(
    type='AmpOptimWrapper',
    loss_scale='dynamic',
    optimizer=dict(type='AdamW', lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0, flat_decay_mult=0.0),
    clip_grad=dict(max_norm=5.0),
)

# base_batch_size = 8 GPUs x 128 images
auto_scale_lr = dict(enable=False, base_batch_size=1024)
