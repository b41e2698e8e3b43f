from .pyramid import SimpleFeaturePyramid
from .vim import Vim
from .vmamba import VMamba

__all__ = ['SimpleFeaturePyramid', 'VMamba', 'Vim']
