"""The layers of VMamba that reduce the resolution: the stem, and downsampling between stages."""

import torch
from einops import rearrange
from torch import Tensor, nn

from ..memory import is_on_cpu_fast_path
from .layers import ChannelsFirst, ChannelsLast


class PatchStem(nn.Sequential):
    """First generation: non-overlapping 4x4 patches. (B, 3, H, W) -> (B, H // 4, W // 4, C)."""

    smallest_image = 4

    def __init__(self, in_channels: int, channels: int):
        super().__init__(nn.Conv2d(in_channels, channels, 4, stride=4), ChannelsLast(), nn.LayerNorm(channels))


class ConvStem(nn.Sequential):
    """Current generation: two 3x3 convolutions of stride 2. (B, 3, H, W) -> (B, ceil(H / 4), ceil(W / 4), C)."""

    smallest_image = 1

    def __init__(self, in_channels: int, channels: int):
        super().__init__(
            nn.Conv2d(in_channels, channels // 2, 3, stride=2, padding=1),
            ChannelsLast(),
            nn.LayerNorm(channels // 2),
            ChannelsFirst(),
            nn.GELU(),
            nn.Conv2d(channels // 2, channels, 3, stride=2, padding=1),
            ChannelsLast(),
            nn.LayerNorm(channels),
        )


class PatchMerging(nn.Module):
    """First generation: Swin's patch merging (arXiv 2103.14030). (B, H, W, C) -> (B, ceil(H / 2), ceil(W / 2), C')."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.norm = nn.LayerNorm(4 * in_channels)
        self.reduction = nn.Linear(4 * in_channels, out_channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        height, width = ((size + 1) // 2 for size in x.shape[1:3])
        # Pad to even sizes. Concatenate the pixels (dy, dx) of 2x2 patches: (0, 0), (1, 0), (0, 1), (1, 1)
        x = nn.functional.pad(x, (0, 0, 0, 2 * width - x.shape[2], 0, 2 * height - x.shape[1]))
        x = x.unflatten(2, (width, 2)).unflatten(1, (height, 2))
        x = rearrange(x, 'b h dy w dx c -> b h w (dx dy c)')
        return self.reduction(self.norm(x))


class ConvDownsample(nn.Sequential):
    """Current generation: one 3x3 convolution of stride 2. (B, H, W, C) -> (B, ceil(H / 2), ceil(W / 2), C')."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__(
            ChannelsFirst(),
            nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1),
            ChannelsLast(),
            nn.LayerNorm(out_channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        conv = self[1]
        if x.dtype == torch.bfloat16 and is_on_cpu_fast_path(x) and isinstance(conv, nn.Conv2d):
            # PyTorch converts the weight to the memory format of x. If the weight is larger, converting x is faster.
            if conv.weight.numel() > x.numel():
                x = x.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
        return super().forward(x)


STEMS = {'patch': PatchStem, 'conv': ConvStem}
DOWNSAMPLES = {'merging': PatchMerging, 'conv': ConvDownsample}
