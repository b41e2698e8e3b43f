# Registers the backbones. A child config that sets this list must keep 'mmvmamba' in it.
custom_imports = dict(imports=['mmvmamba'], allow_failed_imports=False)
default_scope = 'mmpretrain'

default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='mmvmamba.engine.hooks.rank_zero_logger.RankZeroLoggerHook', interval=100),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(
        type='mmvmamba.engine.hooks.atomic_checkpoint.AtomicCheckpointHook',
        interval=1,
        max_keep_ckpts=3,
        save_best='auto',
    ),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    seeding=dict(type='mmvmamba.engine.hooks.seed_by_position.SeedByPositionHook'),
    dataset_check=dict(type='mmvmamba.engine.hooks.dataset_check.DatasetCheckHook'),
    visualization=dict(type='VisualizationHook', enable=False),
)

env_cfg = dict(
    cudnn_benchmark=True,  # all images have the same size
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'),
)

vis_backends = [dict(type='LocalVisBackend')]
visualizer = dict(type='UniversalVisualizer', vis_backends=vis_backends)
log_level = 'INFO'
load_from = None
resume = False
