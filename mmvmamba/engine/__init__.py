"""Runs: launching them, on GPUs and without; what optimizers see.

Hooks are imported where they are used: mmengine.hooks needs OpenCV, and importing mmvmamba must not.
"""

from .layer_decay import LayerDecayOptimWrapperConstructor

__all__ = ['LayerDecayOptimWrapperConstructor']
