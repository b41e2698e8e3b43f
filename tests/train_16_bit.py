"""Trains the demos under autocast on a CPU and compares their metrics with those of float32.

    python -m tests.train_16_bit configs/demo/*vmamba*.py configs/demo/*vim*.py --iterations 300

MMEngine's AmpOptimWrapper wants a GPU. The one of this file differs from it in nothing but the device, on which two
operators of mmcv, NMS and RoIAlign, have no 16-bit kernels: they run in float32. float16 is trained with its loss
scale, bfloat16 without, as docs/performance.md advises. Evaluation is in float32, by the demo's own loop; a demo that
counts epochs is trained as long as it says. Prints how far each metric lies from that of float32, in points; more
than two is a fault.
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

import torch
from mmcv.ops.nms import NMSop
from mmdet.models import SingleRoIExtractor
from mmengine.config import Config
from mmengine.optim import AmpOptimWrapper, OptimWrapper

ROOT = Path(__file__).parents[1]
POINTS = 2.0
SCALES = {'float32': None, 'bfloat16': '1.0', 'float16': 'dynamic'}
METRICS = {'coco/bbox_mAP': 100, 'coco/segm_mAP': 100, 'mIoU': 1, 'accuracy/top1': 1}  # and points of each


class CPUAmpOptimWrapper(AmpOptimWrapper):
    def __init__(self, dtype: str, loss_scale: float | str, **options):
        OptimWrapper.__init__(self, **options)
        for operator in (NMSop, SingleRoIExtractor):
            operator.forward = torch.amp.custom_fwd(operator.forward, device_type='cpu', cast_inputs=torch.float32)
        self._scale_update_param = None if loss_scale == 'dynamic' else loss_scale
        scale = {} if loss_scale == 'dynamic' else dict(init_scale=loss_scale)
        self.loss_scaler = torch.amp.GradScaler('cpu', **scale)
        self.cast_dtype = getattr(torch, dtype)

    @contextmanager
    def optim_context(self, model: torch.nn.Module) -> Iterator[None]:
        with OptimWrapper.optim_context(self, model), torch.autocast('cpu', self.cast_dtype):
            yield


def train(config: str, dtype: str, iterations: int, folder: Path) -> dict[str, float]:
    """The last metrics of a training in one type, in points."""
    options = ['default_hooks.logger.interval=1']
    if not Config.fromfile(config).train_cfg.get('by_epoch'):
        options += [f'train_cfg.max_iters={iterations}', f'train_cfg.val_interval={iterations}']
    if scale := SCALES[dtype]:
        options += ['optim_wrapper.type=tests.train_16_bit.CPUAmpOptimWrapper', f'optim_wrapper.dtype={dtype}']
        options += [f'optim_wrapper.loss_scale={scale}']
    work_dir, log = folder / dtype, folder / f'{dtype}.log'
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
    args = parser.parse_args()
    faults = 0
    for config in args.configs:
        folder = Path(tempfile.mkdtemp())
        metrics = {dtype: train(config, dtype, args.iterations, folder) for dtype in SCALES}
        for dtype, found in metrics.items():
            assert found, f'{config}, {dtype}: nothing was evaluated'
            further = {name: value - metrics['float32'][name] for name, value in found.items()}
            faults += any(abs(points) > POINTS for points in further.values())
            said = ', '.join(f'{name} {found[name]:.1f} ({points:+.1f})' for name, points in further.items())
            print(f'{Path(config).stem}, {dtype}: {said}', flush=True)
    sys.exit(bool(faults))


if __name__ == '__main__':
    main()
