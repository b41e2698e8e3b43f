"""The simple feature pyramid of ViTDet: several resolutions from the one map of a plain backbone."""

from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn

from .layers import ChannelsFirst, ChannelsLast
from .validation import check_count


@MODELS.register_module()
class SimpleFeaturePyramid(BaseModule):
    """Feature pyramid from a single map: with a map of stride 16, the levels have strides 4, 8, 16, 32 and 64.

    Transposed convolutions enlarge the map, max-pooling halves it, and each level has its own 1x1 and 3x3 convolution;
    a final max-pooling gives the coarsest level. All norms are LayerNorms over channels, with eps 1e-6.
    Source: Exploring Plain Vision Transformer Backbones for Object Detection (arXiv 2203.16527), section 3.

    Args:
        in_channels: channels of the input map, at least 4.
        out_channels: channels of every level.
        init_cfg: as in MMEngine.

    Raises:
        ValueError: `in_channels` is less than 4, or the backbone returns more than one map.
    """

    def __init__(self, in_channels: int, out_channels: int = 256, init_cfg: dict | list | None = None):
        super().__init__(init_cfg)
        check_count('in_channels', in_channels, 4)
        half, quarter = in_channels // 2, in_channels // 4
        enlarge_4 = nn.Sequential(_enlarge(in_channels, half), _norm(half), nn.GELU(), _enlarge(half, quarter))
        scales = (
            (enlarge_4, quarter),
            (_enlarge(in_channels, half), half),
            (nn.Identity(), in_channels),
            (nn.MaxPool2d(2, ceil_mode=True), in_channels),
        )
        self.levels = nn.ModuleList(
            nn.Sequential(
                scale,
                nn.Conv2d(channels, out_channels, 1, bias=False),
                _norm(out_channels),
                nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
                _norm(out_channels),
            )
            for scale, channels in scales
        )
        self.coarsest = nn.MaxPool2d(1, stride=2)

    def forward(self, inputs: tuple[Tensor]) -> tuple[Tensor, ...]:
        """One (B, in_channels, h, w) -> five (B, out_channels, ...): 4h, 2h, h, h / 2 and h / 4 high, rounded up."""
        if len(inputs) != 1:
            raise ValueError(f'SimpleFeaturePyramid takes one map, not {len(inputs)}: give the backbone one out_index.')
        # mmcv's RoIAlign assumes NCHW memory and ignores strides; these maps are channels-last.
        outs = [level(inputs[0]).contiguous() for level in self.levels]
        return (*outs, self.coarsest(outs[-1]))


def _enlarge(in_channels: int, out_channels: int) -> nn.Module:
    return nn.ConvTranspose2d(in_channels, out_channels, 2, stride=2)


def _norm(channels: int) -> nn.Module:
    """LayerNorm over the channels of an NCHW map."""
    return nn.Sequential(ChannelsLast(), nn.LayerNorm(channels, eps=1e-6), ChannelsFirst())
