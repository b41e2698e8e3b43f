# The Vim paper's schedule for detection: AdamW, 380,000 iterations of 64 images, linear decay. The warm-up is ViTDet's.
train_cfg = dict(type='IterBasedTrainLoop', max_iters=380000, val_interval=20000)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=250),
    dict(type='PolyLR', eta_min=0.0, power=1.0, by_epoch=False, begin=250, end=380000),
]

# No weight decay on norms, biases, position embeddings, and D and A of the state spaces.
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.1),
    constructor='LayerDecayOptimWrapperConstructor',
)

# base_batch_size = 8 GPUs x 8 images
auto_scale_lr = dict(enable=False, base_batch_size=64)
