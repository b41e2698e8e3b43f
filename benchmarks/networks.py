"""The networks to compare: backbones without pooling and classifier, with random weights.

A name consists of a network and optional variations after commas: 'VMamba-T, scan chunked', 'Vim-Ti, FPN, no cuDNN'.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from mmvmamba import SimpleFeaturePyramid, Vim, VMamba

FPN = ', FPN'
WITH_CP = ', with_cp'
COMPILED = ', compiled'
PLAIN_ATTENTION = ', plain attention'
EMBED_DIMS = {'Ti': 192, 'S': 384}  # channels of Vim and DeiT


@dataclass(frozen=True)
class Family:
    """A group of networks that are compared, with the image sizes.

    Attributes:
        names: the networks; the first is ours and can also run with other scans.
        baseline: the network whose time is the denominator of time ratios.
        larger: additional networks for --full.
        sizes: image sides for inference, in pixels.
        train_sizes: image sides for training steps, in pixels.
        pyramid: whether a feature pyramid can be added, which requires networks that return a single map.
    """

    names: tuple[str, ...]
    baseline: str
    larger: tuple[str, ...]
    sizes: tuple[int, ...]
    train_sizes: tuple[int, ...]
    pyramid: bool


FAMILIES = {
    'vmamba': Family(
        names=('VMamba-T', 'Swin-T', 'ConvNeXt-T', 'ResNet-50'),
        baseline='Swin-T',
        larger=('VMamba-S', 'Swin-S', 'VMamba-B', 'Swin-B'),
        sizes=(224, 512, 1024, 2048),
        train_sizes=(512,),
        pyramid=False,
    ),
    'vim': Family(
        names=('Vim-Ti', 'DeiT-Ti', 'DeiT-Ti' + PLAIN_ATTENTION),
        baseline='DeiT-Ti',
        larger=('Vim-S', 'DeiT-S'),
        sizes=(224, 512, 640, 736, 1024, 1248),
        train_sizes=(512,),
        pyramid=True,
    ),
}


def build(name: str, size: int) -> nn.Module:
    """Builds a network for square images of the given side. Its output is a tensor or a tuple of maps."""
    torch.manual_seed(0)
    network, *variations = name.split(', ')
    model = BUILDERS[network](size)
    if isinstance(model, PlainTransformer):
        model.choose_attention(fused=PLAIN_ATTENTION[2:] not in variations)
    if WITH_CP[2:] in variations and isinstance(model, (VMamba, Vim)):
        model.with_cp = True
    if FPN[2:] in variations:
        model = nn.Sequential(model, SimpleFeaturePyramid(EMBED_DIMS[network.split('-')[1]]))
    if COMPILED[2:] in variations:
        model.compile(options=dict(layout_optimization=False))
    return model


class PlainTransformer(nn.Module):
    """A timm vision transformer as a backbone for dense tasks: returns the map of its last block."""

    vit: Any  # timm's class has no type annotations

    def __init__(self, name: str, size: int):
        super().__init__()
        import timm

        self.vit = timm.create_model(name, img_size=size, num_classes=0)

    def choose_attention(self, fused: bool) -> None:
        """Selects PyTorch's fused kernel, or separate products with softmax in between."""
        for block in self.vit.blocks:
            block.attn.fused_attn = fused

    def forward(self, x: Tensor) -> tuple[Tensor]:
        return tuple(self.vit.forward_intermediates(x, indices=1, norm=False, intermediates_only=True))


def _vmamba(size: int, arch: str, drop_path_rate: float) -> nn.Module:
    return VMamba(arch, drop_path_rate=drop_path_rate)


def _vim(size: int, arch: str) -> nn.Module:
    return Vim(arch, img_size=size)


def _features(size: int, model: Callable[[], nn.Module]) -> nn.Module:
    """Returns torchvision's Swin or ConvNeXt without norm, pooling and head."""
    return model().get_submodule('features')


def _resnet(size: int) -> nn.Module:
    return nn.Sequential(*list(torchvision.models.resnet50().children())[:-2])


def _deit(size: int, name: str) -> nn.Module:
    return PlainTransformer(name, size)


BUILDERS = {
    'VMamba-T': partial(_vmamba, arch='tiny', drop_path_rate=0.2),
    'VMamba-S': partial(_vmamba, arch='small', drop_path_rate=0.3),
    'VMamba-B': partial(_vmamba, arch='base', drop_path_rate=0.6),
    'Swin-T': partial(_features, model=torchvision.models.swin_t),
    'Swin-S': partial(_features, model=torchvision.models.swin_s),
    'Swin-B': partial(_features, model=torchvision.models.swin_b),
    'ConvNeXt-T': partial(_features, model=torchvision.models.convnext_tiny),
    'ResNet-50': _resnet,
    'Vim-Ti': partial(_vim, arch='tiny'),
    'Vim-S': partial(_vim, arch='small'),
    'DeiT-Ti': partial(_deit, name='deit_tiny_patch16_224'),
    'DeiT-S': partial(_deit, name='deit_small_patch16_224'),
}
