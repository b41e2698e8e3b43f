"""State-space backbones for OpenMMLab: importing this package registers VMamba in MMEngine's model registry."""

try:
    import mmengine  # noqa: F401
except ImportError as error:
    raise ImportError(
        'mmvmamba needs MMEngine: run `pip install onedl-mmengine` (or, on an original OpenMMLab stack, '
        '`pip install mmengine`).'
    ) from error

from . import models, ops
from .models import VMamba

__version__ = '0.1.0'

__all__ = ['VMamba', 'models', 'ops']
