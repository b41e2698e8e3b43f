"""Compares the losses of whole models between our VMamba-T and the official one, on a CPU.

    python benchmarks/official_losses.py --vmamba CHECKOUT_OF_VMAMBA

Mask R-CNN and UperNet, built from the shipped configs, get random weights, p (1 + 0.1 N) + 0.03 N for an initial p, and
random images. mmdet or mmseg computes the losses with our backbone and with the official class, using the same weights
and seed. For each loss, the first column is |ours - official| / official. The second column shows the effect of
rounding on the official model: the same error if its maps are multiplied by 1 + 1e-6 N(0, 1). For Mask R-CNN, the last
line counts the positions in the list of proposals with different boxes, because the box head samples by position.
"""

import argparse
import copy
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, DefaultScope
from official import import_vmamba
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from tests.test_configs import synthetic_batch  # noqa: E402  (the configs' own test data)

CONFIGS = ('mask-rcnn_vmamba-t_fpn_1x_coco', 'vmamba-t_upernet_4xb4-160k_ade20k-512x512')
SIZE = (256, 320)
ARGUMENTS = dict(
    dims=96, depths=(2, 2, 8, 2), ssm_d_state=1, ssm_ratio=1.0, ssm_conv_bias=False, forward_type='v05_noz',
    downsample_version='v3', patchembed_version='v2', norm_layer='ln2d',
)  # fmt: skip


class Rounded(nn.Module):
    """A backbone whose maps have simulated rounding errors."""

    def __init__(self, backbone: nn.Module):
        super().__init__()
        self.backbone = backbone

    def forward(self, x: Tensor) -> list[Tensor]:
        return [out * (1 + 1e-6 * torch.randn_like(out)) for out in self.backbone(x)]


def losses(model: Any, batch: dict) -> tuple[dict[str, Tensor], list[Tensor]]:
    """Returns the losses of a detector or segmentor and, for a detector, the proposals of each image."""
    proposals = []
    torch.manual_seed(0)
    data = model.data_preprocessor(copy.deepcopy(batch), training=True)
    maps = model.extract_feat(data['inputs'])
    torch.manual_seed(1)  # for the random sampling in the heads
    with patch.object(model, 'extract_feat', lambda inputs: maps), torch.no_grad():
        if hasattr(model, 'rpn_head'):
            predict = model.rpn_head.loss_and_predict

            def keep(*args, **kwargs):
                found = predict(*args, **kwargs)
                proposals.extend(result.bboxes.clone() for result in found[1])
                return found

            with patch.object(model.rpn_head, 'loss_and_predict', keep):
                found = model(**data, mode='loss')
        else:
            found = model(**data, mode='loss')
    totals = {name: sum(value, torch.zeros(())) if isinstance(value, list) else value for name, value in found.items()}
    return totals, proposals


def moved_places(a: list[Tensor], b: list[Tensor]) -> int:
    """Counts the positions in the lists of proposals where boxes differ by more than 0.01 pixels."""
    different = 0
    for x, y in zip(a, b):
        both = min(len(x), len(y))
        different += int(((x[:both] - y[:both]).abs() > 0.01).any(1).sum()) + max(len(x), len(y)) - both
    return different


def compare(official: type[nn.Module], name: str, seed: int) -> None:
    cfg = Config.fromfile(ROOT / 'configs/vmamba' / f'{name}.py')
    cfg.model.backbone.update(init_cfg=None, drop_path_rate=0.0)
    torch.manual_seed(seed)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        batch = synthetic_batch(cfg, SIZE)
        model = revert_sync_batchnorm(MODELS.build(cfg.model))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1 + 0.1 * torch.randn_like(parameter)).add_(0.03 * torch.randn_like(parameter))
    for head in ('decode_head', 'auxiliary_head'):
        if hasattr(model, head):
            getattr(model, head).dropout = None
    twin, rounded = copy.deepcopy(model), copy.deepcopy(model)
    twin.backbone = official(drop_path_rate=0.0, **ARGUMENTS)
    twin.backbone.load_state_dict(model.get_submodule('backbone').state_dict())
    rounded.backbone = Rounded(twin.backbone)
    (ours, boxes), (theirs, official_boxes), (moved, moved_boxes) = (
        losses(each, batch) for each in (model, twin, rounded)
    )
    print(f'{name}, seed {seed}: ours, official with rounding errors')
    for key, value in theirs.items():
        if 'loss' in key:
            print(f'  {key:20}', *(f'{float(abs(found[key] - value) / value):.1e}' for found in (ours, moved)))
    if boxes:
        count = sum(map(len, official_boxes))
        places = (moved_places(found, official_boxes) for found in (boxes, moved_boxes))
        print(f'  {f"moved, of {count}":20}', *places)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or '').partition('\n')[0])
    parser.add_argument('--vmamba', type=Path, required=True, help='checkout of MzeroMiko/VMamba')
    parser.add_argument('--seeds', type=int, default=3)
    options = parser.parse_args()
    official = import_vmamba(options.vmamba).Backbone_VSSM
    with patch('torch.cuda.device', nullcontext):
        for name in CONFIGS:
            for seed in range(options.seeds):
                compare(official, name, seed)


if __name__ == '__main__':
    main()
