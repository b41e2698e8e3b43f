"""Inference that reports its progress and can be cancelled."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event

from torch import nn

from .errors import LaunchError


@contextmanager
def interruptible(model: nn.Module, cancelled: Event, report: Callable[[float], None]) -> Iterator[None]:
    """Lets a forward pass of a model report its progress and stop between two blocks.

    Only blocks are hooked: the layers in them can then still use the functions that save memory.

    Args:
        model: any model.
        cancelled: set it, from any thread, to stop the forward pass.
        report: is called with the share of the blocks that have run, 0 to 1.

    Raises:
        LaunchError: from the forward pass, if `cancelled` is set.
    """
    blocks = [block for block in _blocks(model) if next(block.children(), None) is not None]
    done = set()

    def before_block(block, _):
        if cancelled.is_set():
            raise LaunchError('Cancelled')
        report(len(done) / len(blocks))
        done.add(block)

    handles = [block.register_forward_pre_hook(before_block) for block in blocks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _blocks(model: nn.Module) -> list[nn.Module]:
    """Returns the parts of a model, such as its backbone and its heads, and the elements of all lists in them."""
    lists = [module for module in model.modules() if isinstance(module, (nn.ModuleList, nn.Sequential))]
    return [*model.children(), *(block for each in lists for block in each)]
