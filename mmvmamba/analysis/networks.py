"""Builds a backbone for analysis, from a config or by name, and loads images for it."""

from copy import deepcopy
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import mmcv
import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor, nn

from ..checkpoint import CheckpointSpec, load_checked, load_pretrained, read_checkpoint, unwrap_state_dict
from ..engine.arguments import load_config
from ..engine.errors import LaunchError
from ..engine.libraries import register_modules

# The published networks that the two papers compare. Each returns the map of its last stage or block.
NETWORKS = {
    'VMamba-T': dict(type='mmvmamba.VMamba', arch='tiny', out_indices=(3,)),
    'VMamba-S': dict(type='mmvmamba.VMamba', arch='small', out_indices=(3,)),
    'VMamba-B': dict(type='mmvmamba.VMamba', arch='base', out_indices=(3,)),
    'Vim-T': dict(type='mmvmamba.Vim', arch='tiny'),
    'Vim-S': dict(type='mmvmamba.Vim', arch='small'),
    'Vim-B': dict(type='mmvmamba.Vim', arch='base'),
    'Swin-T': dict(type='mmpretrain.SwinTransformer', arch='tiny', pad_small_map=True),
    'Swin-S': dict(type='mmpretrain.SwinTransformer', arch='small', pad_small_map=True),
    'ConvNeXt-T': dict(type='mmpretrain.ConvNeXt', arch='tiny', gap_before_final_norm=False),
    'ConvNeXt-S': dict(type='mmpretrain.ConvNeXt', arch='small', gap_before_final_norm=False),
    'ResNet-50': dict(type='mmpretrain.ResNet', depth=50),
    'ResNet-101': dict(type='mmpretrain.ResNet', depth=101),
    'DeiT-T': dict(type='mmpretrain.VisionTransformer', arch='deit-tiny', out_type='featmap'),
    'DeiT-S': dict(type='mmpretrain.VisionTransformer', arch='deit-small', out_type='featmap'),
}

# The ImageNet statistics (RGB) that all of these networks are trained with.
MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)

SUFFIXES = ('.bmp', '.jpeg', '.jpg', '.png', '.tif', '.tiff', '.webp')


def build_backbone(network: str, checkpoint: str | None = None) -> nn.Module:
    """Builds a backbone in evaluation mode, with random weights or weights from a checkpoint.

    Args:
        network: a name in `NETWORKS`, or a config file for mmdet, mmseg or mmpretrain.
        checkpoint: path or URL of a checkpoint of the backbone alone or of a whole model. None initialises the weights
            randomly and ignores pretrained weights that the config names.

    Raises:
        LaunchError: the network does not exist, or its library is not installed.
        CheckpointError: the checkpoint does not fit the backbone.
    """
    if network in NETWORKS:
        settings, scope = dict(NETWORKS[network]), None
        library, _, settings['type'] = settings['type'].rpartition('.')
        if library == 'mmpretrain':
            if find_spec(library) is None:
                raise LaunchError(f'{network} needs mmpretrain, which is not installed: pip install onedl-mmpretrain')
            scope = library
            register_modules(library, network)
        else:
            import_module('mmvmamba')
    elif Path(network).suffix == '.py':
        cfg = load_config(network)
        settings, scope = _without_weights(cfg, network), cfg.get('default_scope')
    else:
        raise LaunchError(f'{network} is neither a config file (.py) nor one of {", ".join(NETWORKS)}')
    with DefaultScope.overwrite_default_scope(scope):
        backbone = MODELS.build(settings)
    backbone.init_weights()
    if checkpoint:
        _load(backbone, checkpoint)
    backbone.eval()  # not chained: the `train` method of some backbones does not return self
    return backbone.requires_grad_(False)


def _without_weights(cfg: Config, filename: str) -> dict:
    """Returns the backbone settings of a config without pretrained weights."""
    if 'backbone' not in cfg.model:
        raise LaunchError(f'{filename} has no model.backbone')
    settings: dict = deepcopy(cfg.model['backbone'])
    settings.pop('pretrained', None)
    if (settings.get('init_cfg') or {}).get('type') == 'Pretrained':
        settings.pop('init_cfg')
    return settings


def _load(backbone: nn.Module, checkpoint: str) -> None:
    if isinstance(backbone, CheckpointSpec):
        load_pretrained(backbone, checkpoint)  # supports all released layouts
        return
    state_dict = unwrap_state_dict(read_checkpoint(checkpoint), checkpoint)
    prefix = 'backbone.'
    part = {name.removeprefix(prefix): tensor for name, tensor in state_dict.items() if name.startswith(prefix)}
    load_checked(backbone, part or state_dict, checkpoint)


def find_photographs(folder: str | Path) -> list[Path]:
    """Lists the images in a folder, sorted by name.

    Raises:
        LaunchError: the folder does not exist or does not contain an image.
    """
    if not Path(folder).is_dir():
        raise LaunchError(f'image folder {folder} does not exist')
    paths = sorted(path for path in Path(folder).iterdir() if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise LaunchError(f'image folder {folder} contains no image with one of the suffixes {", ".join(SUFFIXES)}')
    return paths


def read_photograph(path: str | Path, height: int | None = None, width: int | None = None) -> np.ndarray:
    """Reads an image as RGB, (H, W, 3) uint8, and resizes it if a size is given.

    Raises:
        LaunchError: the file does not exist or is not an image.
    """
    if not Path(path).is_file():
        raise LaunchError(f'image {path} does not exist')
    image = mmcv.imread(str(path))
    if image is None:
        raise LaunchError(f'{path} is not an image that OpenCV reads')
    image = mmcv.bgr2rgb(image)
    if height is None or width is None:
        return image
    return np.asarray(mmcv.imresize(image, (width, height), interpolation='area'))


def to_input(image: np.ndarray, device: str | torch.device = 'cpu') -> Tensor:
    """Converts an RGB image (H, W, 3) to an input (1, 3, H, W), normalised with the ImageNet statistics."""
    pixels = torch.from_numpy(image).to(device, torch.float32)
    return ((pixels - pixels.new_tensor(MEAN)) / pixels.new_tensor(STD)).permute(2, 0, 1)[None]
