"""Compares the speed of whole detectors, segmentors and classifiers on real images.

The time runs from the file on disk to the predictions at image size: reading, the config's test pipeline, the model and
its post-processing (NMS, mask pasting, argmax). With --model-only, only the network is timed, on a prepared batch. The
models alternate batch by batch, so a slow phase of the machine affects all of them. Without a checkpoint, weights are
random; the post-processing time of a detector is then not representative, because it finds different boxes.

    python tools/analysis_tools/benchmark.py --images FOLDER CONFIG.py=CHECKPOINT PEER_CONFIG.py=CHECKPOINT
"""

import ctypes
import gc
import time
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from contextlib import suppress
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import torch
from mmengine.dataset import pseudo_collate
from mmengine.logging import MMLogger
from mmengine.registry import MODELS, TRANSFORMS, DefaultScope

from mmvmamba.engine.libraries import missing_package

try:
    import mmcv  # noqa: F401, needed by mmvmamba.analysis
except ImportError as error:
    raise missing_package(error) from error

from mmvmamba.analysis.networks import find_photographs
from mmvmamba.checkpoint import load_checked, read_checkpoint, unwrap_state_dict
from mmvmamba.engine.arguments import add_arguments, load_config
from mmvmamba.engine.errors import LaunchError
from mmvmamba.engine.tool_session import tool_session


def parse_args(argv=None):
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument('configs', nargs='+', metavar='CONFIG[=CHECKPOINT]', help='mmdet, mmseg or mmpretrain config')
    parser.add_argument('--images', required=True, help='folder with images')
    parser.add_argument('--batch-size', type=int, default=1, help='default: %(default)s')
    parser.add_argument('--batches', type=int, default=50, help='timed batches per model (default: %(default)s)')
    parser.add_argument('--warmup', type=int, default=5, help='untimed warm-up batches (default: %(default)s)')
    parser.add_argument('--model-only', action='store_true', help='time the network without pre- and post-processing')
    add_arguments(parser, 'device', 'cfg_options', 'trust_checkpoint')
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    MMLogger.get_instance('mmengine', log_level='ERROR')
    with tool_session(args), torch.no_grad():
        paths = find_photographs(args.images)
        if min(args.batch_size, args.batches) < 1:
            raise LaunchError('--batch-size and --batches must be at least 1')
        turns = [batches(paths, args.batch_size) for _ in args.configs]
        runs = [Run(config, args, turn) for config, turn in zip(args.configs, turns)]
        for run in runs:
            for _ in range(args.warmup):
                run.time()
        for _ in range(args.batches):
            for run in runs:
                run.times.append(run.time())
        report(runs, args)


def batches(paths, size):
    """Yields batches of `size` image paths, cycling through the images endlessly."""
    endless = cycle(paths)
    while True:
        yield list(islice(endless, size))


class Run:
    """A model with its test pipeline and its stream of image batches."""

    def __init__(self, config, args, turns):
        self.config, _, checkpoint = config.partition('=')
        cfg = load_config(self.config, args.cfg_options)
        self.times: list[float] = []
        self.scope, self.device, self.turns, self.model_only = cfg.default_scope, args.device, turns, args.model_only
        if cfg.get('data_preprocessor'):
            cfg.model.setdefault('data_preprocessor', cfg.data_preprocessor)
        with DefaultScope.overwrite_default_scope(self.scope):
            self.model = MODELS.build(cfg.model).to(args.device).eval()
            self.transforms = [TRANSFORMS.build(step) for step in test_pipeline(cfg, self.config)]
        if checkpoint:
            load_checked(self.model, unwrap_state_dict(read_checkpoint(checkpoint), checkpoint), checkpoint)

    def time(self):
        """Processes the next batch and returns the time in seconds."""
        paths = next(self.turns)
        ready = self.model.data_preprocessor(self.load(paths)) if self.model_only else {}
        synchronize(self.device)
        begin = time.perf_counter()
        self.model(**ready, mode='tensor') if self.model_only else self.model.test_step(self.load(paths))
        synchronize(self.device)
        return time.perf_counter() - begin

    def load(self, paths):
        samples = []
        for number, path in enumerate(paths):
            sample = dict(img_path=str(path), img_id=number, seg_fields=[], reduce_zero_label=False)
            for transform in self.transforms:
                sample = transform(sample)
            samples.append(sample)
        return pseudo_collate(samples)


def test_pipeline(cfg, config):
    """Returns the steps of the test pipeline, except those that load annotations."""
    dataset = cfg.get('test_dataloader', {}).get('dataset')
    while dataset and 'dataset' in dataset:
        dataset = dataset.dataset
    if not dataset:
        raise LaunchError(f'{config} has no test_dataloader with a pipeline for the images')
    return [step for step in dataset.pipeline if not step.type.endswith('Annotations')]


def synchronize(device):
    if torch.device(device).type == 'cuda':
        torch.cuda.synchronize(device)


def report(runs, args):
    what = 'network only' if args.model_only else 'from file to predictions'
    where = torch.cuda.get_device_name(args.device) if 'cuda' in args.device else f'{torch.get_num_threads()} threads'
    print(f'{what}, batch {args.batch_size}, {args.batches} batches, {args.device} ({where})')
    header = ('', 'images/s', 'median ms', 'p95 ms', 'peak MiB')
    rows = []
    for run in runs:
        times = 1e3 * np.array(run.times)
        peak = peak_memory(run, args.device)
        median, high = np.percentile(times, (50, 95))
        speed = 1e3 * args.batch_size / times.mean()
        shown = '-' if peak is None else f'{peak / 2**20:.0f}'
        rows.append((Path(run.config).stem, f'{speed:.2f}', f'{median:.1f}', f'{high:.1f}', shown))
    widths = [max(map(len, column)) for column in zip(header, *rows)]
    for row in (header, *rows):
        print('  '.join([row[0].ljust(widths[0])] + [cell.rjust(width) for cell, width in zip(row[1:], widths[1:])]))


def peak_memory(run, device):
    """Returns the peak memory of one batch in bytes, without the loaded models; None if it cannot be measured."""
    gc.collect()
    if torch.device(device).type == 'cuda':
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run.time()
        return torch.cuda.max_memory_allocated(device) - before
    with suppress(AttributeError):  # not glibc
        # Return freed memory to the system at once. Free heap space would be reused without raising the peak.
        ctypes.CDLL(None).mallopt(-3, 1 << 16)  # M_MMAP_THRESHOLD
        ctypes.CDLL(None).malloc_trim(0)
    try:
        Path('/proc/self/clear_refs').write_text('5')  # resets the peak to the current resident size
        before = resident('VmRSS')
    except OSError:
        return None
    run.time()
    return max(0, resident('VmHWM') - before)


def resident(field):
    """Returns a field of /proc/self/status in bytes."""
    lines = dict(line.split(':', 1) for line in Path('/proc/self/status').read_text().splitlines())
    return int(lines[field].split()[0]) * 1024


if __name__ == '__main__':
    main()
