"""State-space backbones for OpenMMLab. Importing this package registers VMamba and Vim in MMEngine's registries."""

try:
    import mmengine  # noqa: F401
except ImportError as error:
    raise ImportError(
        'mmvmamba needs MMEngine: run `pip install onedl-mmengine` (or, on an original OpenMMLab stack, '
        '`pip install mmengine`).'
    ) from error

from . import engine, models, ops
from .engine import flops_mmengine  # noqa: F401  (MMEngine counts the operations of the scan)
from .models import SimpleFeaturePyramid, Vim, VMamba

__version__ = '0.2.0'

__all__ = ['SimpleFeaturePyramid', 'VMamba', 'Vim', 'engine', 'models', 'ops']
