"""Registration of formulas in PyTorch's FLOP counter."""

from collections.abc import Callable
from typing import Any

from .import_failure import import_failure


def register_flop_formula(operator: Any) -> Callable[[Callable], Callable]:
    """PyTorch's `register_flop_formula`; without effect if its counter, which imports Triton, cannot be imported."""
    if import_failure('torch.utils.flop_counter') is not None:
        return lambda formula: formula
    from torch.utils import flop_counter

    return flop_counter.register_flop_formula(operator)
