"""`python -m mmvmamba`: prints installed versions, the available scan backends and the backend used for each dtype."""

import platform
import sys
from importlib.util import find_spec

import torch

from . import __version__
from .ops import native, self_check
from .ops.arguments import DTYPES
from .ops.backend import current_backend
from .ops.import_failure import import_failure, in_one_line
from .ops.operation import AUTO
from .ops.scan.backends import SCAN

LIBRARIES = ('torch', 'torchvision', 'triton', 'einops', 'mmengine', 'mmcv', 'mmdet', 'mmseg', 'mmpretrain')
PACKAGES = (*LIBRARIES, 'mamba_ssm')


def version(package: str) -> str:
    if sys.modules.get(package, package) is None or find_spec(package) is None:
        return 'not installed'
    if error := import_failure(package):
        return f'not usable ({in_one_line(error)})'
    return getattr(sys.modules[package], '__version__', 'installed')


def main() -> None:
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else 'no CUDA device'
    print(f'mmvmamba {__version__}, Python {platform.python_version()}, {platform.machine()}')
    print(f'{torch.get_num_threads()} threads, {device}')
    for package in PACKAGES:
        print(f'  {package:14}{version(package)}')
    print(f'Scan backends (selected: {selected_backend()}):')
    for name, backend in SCAN.backends.items():
        can_run = f'can run ({native.info()})' if name == 'native' else 'can run'
        print(f'  {name:14}{backend.unavailable_reason() or can_run}')
    if torch.cuda.is_available():
        state = 'on' if self_check.ENABLED else 'off (MMVMAMBA_SELF_CHECK=0)'
        print(f'Comparison of the first Triton scan of each kind with plain PyTorch: {state}')
    print(f'{AUTO!r} scans:')
    for device_type in devices():
        takes = (
            f'{str(dtype).removeprefix("torch.")} {SCAN.find_backend(device_type, [dtype])[0].name}' for dtype in DTYPES
        )
        print(f'  {device_type:14}{", ".join(takes)}')


def selected_backend() -> str:
    """The name of the selected backend, or why the one in MMVMAMBA_SCAN cannot be used."""
    try:
        return current_backend()
    except RuntimeError as error:
        return f'none; {error}'


def devices() -> list[str]:
    """Returns the types of the devices that PyTorch can use on this machine."""
    if not hasattr(torch, 'accelerator'):  # before PyTorch 2.6
        return ['cpu', 'cuda'] if torch.cuda.is_available() else ['cpu']
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return ['cpu'] if accelerator is None else ['cpu', accelerator.type]


if __name__ == '__main__':
    main()
