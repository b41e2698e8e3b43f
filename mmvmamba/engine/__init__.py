"""Training and testing: command lines, runners, distributed runs, hooks, and the optimizer's parameter groups.

Hooks are imported where they are used: mmengine.hooks needs OpenCV, and importing mmvmamba must not.
"""

from .layer_decay import LayerDecayOptimWrapperConstructor
from .moved_modules import install_moved_modules

install_moved_modules()

__all__ = ['LayerDecayOptimWrapperConstructor']
