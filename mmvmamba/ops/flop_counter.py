"""PyTorch's registration of FLOP formulas, which may be missing."""

from .import_failure import import_failure

if import_failure('torch.utils.flop_counter') is None:
    from torch.utils.flop_counter import register_flop_formula
else:  # PyTorch imports Triton there: if Triton is broken, its counter cannot run

    def register_flop_formula(targets, get_raw=False):
        return lambda formula: formula


__all__ = ['register_flop_formula']
