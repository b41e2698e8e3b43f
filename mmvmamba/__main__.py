"""``python -m mmvmamba``: what is installed, and which scan backends can run here."""

import importlib
import platform

import torch

from . import __version__
from .ops import native
from .ops.backend import BACKENDS, current_backend

LIBRARIES = ('torch', 'torchvision', 'triton', 'einops', 'mmengine', 'mmcv', 'mmdet', 'mmseg', 'mmpretrain')
PACKAGES = (*LIBRARIES, 'mamba_ssm', 'causal_conv1d')


def version(package: str) -> str:
    try:
        return getattr(importlib.import_module(package), '__version__', 'installed')
    except Exception as error:  # whatever a broken installation raises is what its user needs to read
        return f'not usable ({type(error).__name__}: {str(error).splitlines()[0]})'


def main() -> None:
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else 'no CUDA device'
    print(f'mmvmamba {__version__}, Python {platform.python_version()}, {platform.machine()}')
    print(f'{torch.get_num_threads()} threads, {device}')
    for package in PACKAGES:
        print(f'  {package:14}{version(package)}')
    print(f'Scan backends (now: {current_backend()}):')
    for name, unavailable_reason in BACKENDS.items():
        can_run = f'can run ({native.info()})' if name == 'native' else 'can run'
        print(f'  {name:14}{unavailable_reason() or can_run}')


if __name__ == '__main__':
    main()
