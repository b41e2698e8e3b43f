"""A total batch size other than that of the recipe is logged with the option that adapts the learning rate."""

import pytest
from mmengine.config import Config

from mmvmamba.engine.checks.batch_size import batch_size_warning


def config(batch=2, steps=1, **scaling):
    return Config(
        dict(
            train_dataloader=dict(batch_size=batch),
            optim_wrapper=dict(accumulative_counts=steps),
            auto_scale_lr=scaling,
        )
    )


def test_another_batch_size_is_named_with_the_option():
    assert batch_size_warning(config(base_batch_size=16), 1) == (
        'The total batch size is 2 (1 process x 2 images), but the learning rate of this config is set for 16: pass '
        '--auto-scale-lr to adapt it'
    )


def test_mmengine_does_not_scale_accumulated_steps():
    assert batch_size_warning(config(steps=4, base_batch_size=64), 2) == (
        'The total batch size is 16 (2 processes x 2 images x 4 accumulated steps), but the learning rate of this '
        'config is set for 64: set optim_wrapper.optimizer.lr to 0.25 times it to adapt it'
    )


@pytest.mark.parametrize(
    'cfg, processes',
    [
        (config(base_batch_size=16), 8),
        (config(steps=8, base_batch_size=16), 1),
        (config(base_batch_size=16, enable=True), 1),
        (config(), 1),
        (Config(), 1),
    ],
)
def test_other_trainings_are_left_alone(cfg, processes):
    assert batch_size_warning(cfg, processes) is None
