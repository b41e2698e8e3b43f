"""Runs: launching them, on GPUs and without; what optimizers see."""

from .layer_decay import LayerDecayOptimWrapperConstructor
from .official_names import PlaceOfficialNamesHook

__all__ = ['LayerDecayOptimWrapperConstructor', 'PlaceOfficialNamesHook']
