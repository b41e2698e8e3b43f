"""State that compilers must not trace through: its value while they trace is a constant of the compiled program."""

from collections.abc import Callable

import torch
from torch.autograd import forward_ad

from .import_failure import import_failure


def constant_for_compilers(function: Callable) -> Callable:
    """`torch.compiler.assume_constant_result`, unless the compiler cannot be imported: it imports Triton.

    PyTorch 2.4 writes the result over the global with the name of the function, in the module that it compiles.
    Decorate therefore only functions that no other module imports.
    """
    if import_failure('torch._dynamo') is None:
        return torch.compiler.assume_constant_result(function)
    return function


def in_torch_func_transform() -> bool:
    """Whether this runs, or is compiled, within a transform of `torch.func` or with forward-mode derivatives."""
    return _transforms_are_active()


@constant_for_compilers
def _transforms_are_active() -> bool:
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0
