"""Trains the demos under autocast on a CPU and compares their metrics with those of float32.

    python -m tests.train_16_bit configs/demo/v*.py
    python -m tests.train_16_bit configs/demo/mask-rcnn_v*.py --seeds 0 1 2

MMEngine's AmpOptimWrapper requires a GPU. The wrapper in this file differs only in the device. On a CPU, two operators
of mmcv, NMS and RoIAlign, have no 16-bit kernels and run in float32. PyTorch's float16 products and convolutions are
ten times slower than in float32, so they are computed in float32 and rounded, as GPUs do. float16 is trained with loss
scaling, bfloat16 without, as docs/performance.md recommends. Evaluation runs in float32, in the demo's own loop; demos
that count epochs are trained for their full length.

Every loss must be finite. Prints the difference between the mean of each metric over the seeds and float32, in points;
a difference of more than two is a failure. The AP of the twelve coins varies by three between seeds.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import mean

import torch
from mmcv.ops.nms import NMSop
from mmdet.models import SingleRoIExtractor
from mmengine.config import Config
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

ROOT = Path(__file__).parents[1]
POINTS = 2.0
SCALES = {'float32': None, 'bfloat16': '1.0', 'float16': 'dynamic'}
METRICS = {'coco/bbox_mAP': 100, 'coco/segm_mAP': 100, 'mIoU': 1, 'accuracy/top1': 1}  # factors to points


aten = torch.ops.aten
PRODUCTS = {aten.mm, aten.addmm, aten.bmm, aten.baddbmm, aten.convolution, aten.convolution_backward}


class Float16InFloat32(TorchDispatchMode):
    """Computes products and convolutions of float16 tensors in float32 and rounds the results."""

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        inputs = args, kwargs or {}
        is_half = any(isinstance(t, torch.Tensor) and t.dtype == torch.float16 for t in tree_leaves(inputs))
        if operator.overloadpacket not in PRODUCTS or not is_half:
            return operator(*args, **kwargs or {})
        args, kwargs = tree_map_only(torch.Tensor, torch.Tensor.float, inputs)
        return tree_map_only(torch.Tensor, torch.Tensor.half, operator(*args, **kwargs))


class CPUAmpOptimWrapper(AmpOptimWrapper):
    def __init__(self, dtype: str, loss_scale: float | str, **options):
        OptimWrapper.__init__(self, **options)
        for operator in (NMSop, SingleRoIExtractor):
            operator.forward = torch.amp.custom_fwd(operator.forward, device_type='cpu', cast_inputs=torch.float32)
        self._scale_update_param = None if loss_scale == 'dynamic' else loss_scale
        scale = {} if loss_scale == 'dynamic' else dict(init_scale=loss_scale)
        self.loss_scaler = torch.amp.GradScaler('cpu', **scale)
        self.cast_dtype = getattr(torch, dtype)
        if dtype == 'float16':
            Float16InFloat32().__enter__()  # also for the backward pass

    @contextmanager
    def optim_context(self, model: torch.nn.Module) -> Iterator[None]:
        with OptimWrapper.optim_context(self, model), torch.autocast('cpu', self.cast_dtype):
            yield


def train(config: str, dtype: str, seed: int, iterations: int) -> dict[str, float]:
    """Returns the final metrics, in points, of a training run with one dtype."""
    options = [f'randomness.seed={seed}', 'default_hooks.logger.interval=1']
    if not Config.fromfile(config).train_cfg.get('by_epoch'):
        options += [f'train_cfg.max_iters={iterations}', f'train_cfg.val_interval={iterations}']
    if scale := SCALES[dtype]:
        options += ['optim_wrapper.type=tests.train_16_bit.CPUAmpOptimWrapper', f'optim_wrapper.dtype={dtype}']
        options += [f'optim_wrapper.loss_scale={scale}']
    folder = Path(tempfile.mkdtemp())
    work_dir, log = folder / 'run', folder / 'log'
    command = [sys.executable, ROOT / 'tools/train.py', config, '--work-dir', work_dir, '--cfg-options', *options]
    with log.open('w') as out:
        done = subprocess.run(command, stdout=out, stderr=out, check=False, env={**os.environ, 'PYTHONPATH': str(ROOT)})
    assert done.returncode == 0, log.read_text()[-3000:]
    (lines,) = work_dir.glob('*/vis_data/scalars.json')
    records = [json.loads(line) for line in lines.read_text().splitlines()]
    losses = [record['loss'] for record in records if 'loss' in record]
    assert losses and all(map(math.isfinite, losses)), f'{config}, {dtype}: a loss is not finite'
    return {name: points * records[-1][name] for name, points in METRICS.items() if name in records[-1]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('configs', nargs='+')
    parser.add_argument('--iterations', type=int, default=300)
    parser.add_argument('--seeds', type=int, nargs='+', default=[0])
    args = parser.parse_args()
    faults = 0
    for config in args.configs:
        expected = None
        for dtype in SCALES:
            runs = [train(config, dtype, seed, args.iterations) for seed in args.seeds]
            assert all(runs), f'{config}, {dtype}: nothing was evaluated'
            found = {name: [run[name] for run in runs] for name in runs[0]}
            expected = expected or {name: mean(values) for name, values in found.items()}
            further = {name: mean(values) - expected[name] for name, values in found.items()}
            faults += any(abs(points) > POINTS for points in further.values())
            said = (f'{name} {" ".join(f"{v:.1f}" for v in found[name])} ({further[name]:+.1f})' for name in found)
            print(f'{Path(config).stem}, {dtype}: {", ".join(said)}', flush=True)
    sys.exit(bool(faults))


if __name__ == '__main__':
    main()
