from .mm_vssm import MM_VSSM
from .simple_feature_pyramid import SimpleFeaturePyramid
from .vim import Vim
from .vmamba import VMamba

__all__ = ['MM_VSSM', 'SimpleFeaturePyramid', 'VMamba', 'Vim']
