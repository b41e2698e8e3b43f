default_scope = 'mmpretrain'
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='mmvmamba.engine.hooks.rank_zero_logger.RankZeroLoggerHook', interval=10),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='mmvmamba.engine.hooks.atomic_checkpoint.AtomicCheckpointHook', interval=30),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    seeding=dict(type='mmvmamba.engine.hooks.seed_by_position.SeedByPositionHook'),
    dataset_check=dict(type='mmvmamba.engine.hooks.dataset_check.DatasetCheckHook'),
    visualization=dict(type='VisualizationHook', enable=False),
)
env_cfg = dict(mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0))
vis_backends = [dict(type='LocalVisBackend')]
visualizer = dict(type='UniversalVisualizer', vis_backends=vis_backends)
log_level = 'INFO'
randomness = dict(seed=0)
