"""Restarts a data loader that MMEngine has started too early. Written for MMEngine 0.10.0 to 0.10.7."""

from typing import Any

from torch.utils.data import DataLoader


def restart_early_loading(batches: Any, loader: DataLoader, sampler: Any) -> None:
    """Makes an iteration-based loop load its first batches again. From MMEngine 0.10.8 on, it has not loaded any.

    Args:
        batches: `dataloader_iterator` of the loop; None for an epoch-based loop.
        loader: the data loader of the loop.
        sampler: the sampler of the config, an InfiniteSampler for example. It starts anew.
    """
    if getattr(batches, '_iterator', None) is None:
        return
    batches._iterator = None  # ends the workers
    if hasattr(sampler, '_indices_of_rank'):
        sampler.indices = sampler._indices_of_rank()
    batches._iterator = iter(loader)
