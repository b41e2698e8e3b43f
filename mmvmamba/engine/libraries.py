"""The OpenMMLab libraries: which ones a config needs, how to install them, and what their own tools add to it."""

import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import torch
from mmengine.config import Config

from .errors import LaunchError
from .patches.library_messages import hide_library_messages

# The command that installs each library that a config may need.
INSTALL = {
    'mmcv': 'pip install --no-build-isolation onedl-mmcv',
    'mmdet': 'pip install onedl-mmdetection',
    'mmseg': 'pip install onedl-mmsegmentation',
    'mmpretrain': 'pip install onedl-mmpretrain',
}


def import_libraries(cfg: Config, config: str) -> None:
    """Imports the libraries that a config needs, and completes the config as the tools of its library do.

    Args:
        cfg: complete config.
        config: path of its file, for errors.

    Raises:
        LaunchError: a library is missing or broken.
    """
    for library in sorted(_named_by(cfg)):
        if find_spec(library) is None:
            raise LaunchError(f'{config} needs {library}, which is not installed: {INSTALL[library]}')
    if find_spec('faster_coco_eval') is None and 'FasterCocoMetric' in repr(cfg):
        raise LaunchError(f'{config} needs faster_coco_eval, which is not installed: pip install faster-coco-eval')
    scope = cfg.get('default_scope')
    if scope in INSTALL:
        register_modules(scope, config)
    if scope == 'mmpretrain':
        _complete_dataloaders(cfg)


def register_modules(scope: str, needed_by: str = 'this model') -> None:
    """Makes a library register its models, datasets and metrics, without making its scope the default.

    Raises:
        LaunchError: the library is broken.
    """
    hide_library_messages()
    try:
        import_module(f'{scope}.utils').register_all_modules(init_default_scope=False)
    except Exception as error:  # a library that was built for another PyTorch can raise any error
        raise cannot_import(f'{scope}, which {needed_by} needs,', error) from error


# The same for other packages that the tools and demos import, by the name in `import`.
PACKAGES = {
    **INSTALL,
    'cv2': 'pip install opencv-python',
    'gradio': "pip install 'mmvmamba[web]'",
    'matplotlib': 'pip install matplotlib',
    'pycocotools': 'pip install pycocotools',
    'skimage': 'pip install scikit-image',
    'supervision': 'pip install supervision',
}


def missing_package(error: ImportError) -> SystemExit:
    """Returns the exception that ends a tool with one line if it cannot import a package."""
    tool = Path(sys.argv[0]).name
    return SystemExit(f'{tool}: {cannot_import((error.name or "a package").split(".")[0], error)}')


def cannot_import(what: str, error: Exception) -> LaunchError:
    library = (getattr(error, 'name', None) or '').split('.')[0]
    known = next((name for name in PACKAGES if name == library or f'{name} is not installed' in str(error)), None)
    way_out = f': {PACKAGES[known]}' if known else ''
    reason = ' '.join(str(error).split())
    if not isinstance(error, ImportError):
        reason = f'{type(error).__name__}: {reason}' if reason else type(error).__name__
    return LaunchError(f'{what} cannot be imported ({reason}){way_out}')


def _named_by(cfg: Config) -> set[str]:
    """Returns the libraries that a config names, as its scope or before a type (`mmpretrain.ConvNeXt`)."""
    needed = {cfg.get('default_scope')}
    waiting = list(cfg.values())
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            if isinstance(node.get('type'), str):
                needed.add(node['type'].split('.')[0])
            waiting.extend(node.values())
        elif isinstance(node, (list, tuple)):
            waiting.extend(node)
    return needed & INSTALL.keys()


def _complete_dataloaders(cfg: Config) -> None:
    """Adds the settings that the tools of mmpretrain add. Pinned memory needs a GPU; PyTorch would warn without one."""
    for stage in ('train', 'val', 'test'):
        loader = cfg.get(f'{stage}_dataloader')
        if loader:
            loader.setdefault('pin_memory', torch.cuda.is_available())
            loader.setdefault('persistent_workers', loader.get('num_workers', 0) > 0)
            loader.setdefault('collate_fn', dict(type='default_collate'))
