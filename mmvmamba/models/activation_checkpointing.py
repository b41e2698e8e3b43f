"""Activation checkpointing of blocks, the option `with_cp`."""

from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from ..ops.tracing import in_torch_func_transform


def call_block(block: nn.Module, *inputs: Any, with_cp: bool) -> Any:
    """Calls a block, and recomputes it in the backward pass if `with_cp` is set and gradients are recorded."""
    # `checkpoint` does not support the transforms of torch.func
    if with_cp and torch.is_grad_enabled() and not in_torch_func_transform():
        return checkpoint(block, *inputs, use_reentrant=False)
    return block(*inputs)
