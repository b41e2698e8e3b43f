"""The networks that are compared: backbones alone, without pooling and classifier, with random weights.

A name is that of a network, with variations after commas: 'VMamba-T, scan blocked', 'Vim-Ti, FPN, no cuDNN'.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torchvision
from torch import Tensor, nn

from mmvmamba import SimpleFeaturePyramid, Vim, VMamba

FPN = ', FPN'
WITH_CP = ', with_cp'
COMPILED = ', compiled'
PLAIN_ATTENTION = ', plain attention'
EMBED_DIMS = {'Ti': 192, 'S': 384}  # of Vim and DeiT


@dataclass(frozen=True)
class Family:
    """What is measured side by side, and at which image sizes.

    Attributes:
        names: the networks; the first is ours, and runs with other scans too where asked for.
        baseline: the one whose time the others' are divided by.
        larger: further networks, with --full.
        sizes: sides in pixels for inference.
        train_sizes: sides in pixels for training steps.
        pyramid: whether a feature pyramid can be put on top: the networks give one map each.
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
    """The network of that name for square images of that side; the result is a tensor or a tuple of maps."""
    torch.manual_seed(0)
    network, *variations = name.split(', ')
    model = BUILDERS[network](size)
    if isinstance(model, PlainTransformer):
        model.choose_attention(fused=PLAIN_ATTENTION[2:] not in variations)
    if WITH_CP[2:] in variations:
        model.with_cp = True
    if FPN[2:] in variations:
        model = nn.Sequential(model, SimpleFeaturePyramid(EMBED_DIMS[network.split('-')[1]]))
    if COMPILED[2:] in variations:
        model.compile(options=dict(layout_optimization=False))
    return model


class PlainTransformer(nn.Module):
    """A timm vision transformer as the backbone of a dense task: the map of its last block."""

    def __init__(self, name: str, size: int):
        super().__init__()
        import timm

        self.vit = timm.create_model(name, img_size=size, num_classes=0)

    def choose_attention(self, fused: bool) -> None:
        """PyTorch's fused kernel, or the product of queries and keys, softmax and product with the values."""
        for block in self.vit.blocks:
            block.attn.fused_attn = fused

    def forward(self, x: Tensor) -> tuple[Tensor]:
        return tuple(self.vit.forward_intermediates(x, indices=1, norm=False, intermediates_only=True))


def _vmamba(size: int, arch: str, drop_path_rate: float) -> nn.Module:
    return VMamba(arch, drop_path_rate=drop_path_rate)


def _vim(size: int, arch: str) -> nn.Module:
    return Vim(arch, img_size=size)


def _features(size: int, model: Callable[[], nn.Module]) -> nn.Module:
    """Of torchvision's Swin and ConvNeXt: all but norm, pooling and head."""
    return model().features


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
