"""Counts the parameters and FLOPs of a config's model, including its scans.

The conventions are those of the published tables and of mmengine: a multiply-add counts as one operation, and a scan
step as defined in mmvmamba/ops/scan/flops.py. The model runs on the meta device with shapes only, so counting takes
seconds for any model and image size and needs neither weights nor images.
"""

from argparse import ArgumentParser
from collections import Counter
from collections.abc import Iterable, Sequence
from math import prod
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from mmvmamba.engine.arguments import add_arguments
from mmvmamba.engine.deferred_pretrained import defer_pretrained
from mmvmamba.engine.libraries import register_modules
from mmvmamba.ops import use_backend
from mmvmamba.ops.scan.flops import scan_flops

# Image height and width for which FLOPs are published.
SHAPES = {'mmdet': (800, 1280), 'mmseg': (512, 2048), 'mmpretrain': (224, 224)}


class EmptyWeights(TorchFunctionMode):
    """Creates the weights of layers that are built in this mode on the meta device, without initialising them.

    `torch.device('meta')` would also affect tensors whose values some models need while they are built.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func is torch.empty and kwargs.get('device') is None:
            kwargs['device'] = 'meta'
        return func(*args, **kwargs)


def build_empty(cfg: Config) -> nn.Module:
    """Builds the model of a config in evaluation mode, with parameters and buffers on the meta device."""
    register_modules(cfg.default_scope)
    defer_pretrained(cfg)
    with DefaultScope.overwrite_default_scope(cfg.default_scope), EmptyWeights():
        return MODELS.build(cfg.model).to('meta').eval()


def count_parameters(model: nn.Module) -> int:
    return sum(param.numel() for param in model.parameters())


# FLOPs


def norm_flops(x: Sequence[int], *_, **__) -> int:
    return 5 * prod(x)


def nearest_flops(x: Sequence[int], *_, out_shape: Sequence[int], **__) -> int:
    return prod(out_shape)


def bilinear_flops(x: Sequence[int], *_, out_shape: Sequence[int], **__) -> int:
    return 4 * prod(out_shape)


def map_scan_flops(x, dt, A, B, C, D, dt_bias, dt_weight, *_, **__) -> int:
    return scan_flops(x, dt, A, D is not None, dt_weight is not None)


# Operators that are counted in addition to convolutions and matrix products, as in mmengine.analysis. Unlike there,
# batch norms are not counted, because at inference they are folded into the preceding convolution, and neither is
# pooling, whose cost is negligible.
aten = torch.ops.aten
OTHERS = {
    aten.native_layer_norm: norm_flops,
    aten.native_group_norm: norm_flops,
    aten.upsample_nearest2d: nearest_flops,
    aten.upsample_bilinear2d: bilinear_flops,
    torch.ops.mmvmamba.selective_scan_2d: map_scan_flops,
}


def count_flops(model: nn.Module, shape: Sequence[int]) -> Counter:
    """Counts the FLOPs for one image by operator name; `.total()` is their sum.

    Args:
        model: a model from `build_empty`.
        shape: height and width of the image.
    """
    image = torch.empty(1, 3, *shape, device='meta')
    # the counter finds scans as operators, which a backend chosen by name may replace
    with torch.no_grad(), use_backend('auto'), FlopCounterMode(display=False, custom_mapping=OTHERS) as counter:
        if hasattr(model, 'roi_head'):
            run_two_stages(model, image)
        else:
            model(image, mode='tensor')
    counts = counter.get_flop_counts()['Global']
    # torch counts a multiply-add as two
    return Counter({op.__name__: count if op in OTHERS else count // 2 for op, count in counts.items()})


def run_two_stages(detector: Any, image: Tensor) -> None:
    """Runs the parts of a two-stage detector that mmdet counts: 1000 proposals per box head, 100 per mask head.

    The choice of proposals does not affect the count. Proposal generation and RoI pooling are not counted.
    """
    maps = detector.extract_feat(image)
    detector.rpn_head(maps)
    head = detector.roi_head
    branches = [(head.bbox_head, head.bbox_roi_extractor, 1000)]
    if head.with_mask:
        branches.append((head.mask_head, head.mask_roi_extractor, 100))
    for heads, extractors, num_rois in branches:
        for stage, extractor in zip(stages(heads), stages(extractors)):
            stage(image.new_zeros(num_rois, extractor.out_channels, *extractor.roi_layers[0].output_size))


def stages(modules: Any) -> Iterable[Any]:
    """Returns the heads of a cascade, or the single head in a list."""
    return modules if isinstance(modules, nn.ModuleList) else [modules]


def parse_args(argv=None):
    parser = ArgumentParser(description=__doc__)
    add_arguments(parser, 'config')
    parser.add_argument(
        '--shape',
        type=int,
        nargs=2,
        metavar=('HEIGHT', 'WIDTH'),
        help='image size (default: 800 1280 for mmdet, 512 2048 for mmseg, 224 224 for mmpretrain)',
    )
    add_arguments(parser, 'cfg_options')
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    MMLogger.get_instance('mmengine', log_level='ERROR')
    cfg = Config.fromfile(args.config)
    cfg.merge_from_dict(args.cfg_options or {})
    height, width = shape = args.shape or SHAPES[cfg.default_scope]
    model = build_empty(cfg)
    flops = count_flops(model, shape)
    print(f'Image       {height} x {width}')
    print(f'Parameters  {count_parameters(model) / 1e6:.2f}M')
    print(f'FLOPs       {flops.total() / 1e9:.2f}G')
    for operator, count in flops.most_common():
        print(f'  {operator:<24}{count / 1e9:>10.2f}G')


if __name__ == '__main__':
    main()
