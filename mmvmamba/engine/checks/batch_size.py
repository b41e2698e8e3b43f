"""Compares the total batch size of a training with that of the recipe."""

from mmengine.config import Config


def batch_size_warning(cfg: Config, world_size: int) -> str | None:
    """Returns a sentence if the learning rate is set for another total batch size, else None.

    Args:
        cfg: complete config. `auto_scale_lr.base_batch_size` is the batch size of the recipe.
        world_size: number of processes.
    """
    scaling = cfg.get('auto_scale_lr') or {}
    batch = (cfg.get('train_dataloader') or {}).get('batch_size')
    base = scaling.get('base_batch_size')
    if not base or not batch or scaling.get('enable'):
        return None
    steps = (cfg.get('optim_wrapper') or {}).get('accumulative_counts', 1)
    total = world_size * batch * steps
    if total == base:
        return None
    factors = f'{world_size} process{"es" * (world_size > 1)} x {batch} images'
    factors += f' x {steps} accumulated steps' if steps > 1 else ''
    way_out = 'pass --auto-scale-lr' if steps == 1 else f'set optim_wrapper.optimizer.lr to {total / base:.3g} times it'
    return (
        f'The total batch size is {total} ({factors}), but the learning rate of this config is set for {base}: '
        f'{way_out} to adapt it'
    )
