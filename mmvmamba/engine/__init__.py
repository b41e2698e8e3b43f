"""Runs: launching them, on GPUs and without; what optimizers see."""

from .layer_decay import LayerDecayOptimWrapperConstructor

__all__ = ['LayerDecayOptimWrapperConstructor']
