# Registers the backbones. A child config that sets this list must keep 'mmvmamba' in it.
custom_imports = dict(imports=['mmvmamba'], allow_failed_imports=False)
default_scope = 'mmdet'

default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='mmvmamba.engine.hooks.rank_zero_logger.RankZeroLoggerHook', interval=50),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='mmvmamba.engine.hooks.atomic_checkpoint.AtomicCheckpointHook', interval=1),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    seeding=dict(type='mmvmamba.engine.hooks.seed_by_position.SeedByPositionHook'),
    dataset_check=dict(type='mmvmamba.engine.hooks.dataset_check.DatasetCheckHook'),
    visualization=dict(type='DetVisualizationHook'),
)

env_cfg = dict(
    cudnn_benchmark=False,  # image sizes change from batch to batch
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'),
)

vis_backends = [dict(type='LocalVisBackend')]
visualizer = dict(type='DetLocalVisualizer', vis_backends=vis_backends, name='visualizer')
log_processor = dict(type='LogProcessor', window_size=50, by_epoch=True)
log_level = 'INFO'
load_from = None
resume = False
