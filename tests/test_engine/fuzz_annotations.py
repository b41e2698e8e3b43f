"""Hostile and damaged annotation files, masks and images, made from a seed and loaded as training and testing do.

    python -m tests.test_engine.fuzz_annotations --cases 3000 --seed 0 [--minutes 10]

Each case must end with a right result or with one `DataError` of one line that names a file of the case. Batches run in
processes of their own: a crash, a case without end, or one that takes much memory is counted, and the others go on.
"""

import argparse
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import PIL.Image
import torch
from mmengine.registry import DATASETS, METRICS, DefaultScope

from mmvmamba.engine.errors import DataError
from mmvmamba.engine.hooks.dataset_check import check_metric
from mmvmamba.engine.libraries import register_modules
from mmvmamba.engine.patches.dataset_errors import install_dataset_errors

from .annotation_cases import CLASSES, HEIGHT, WIDTH, Case, coco, make_case, make_images, mmengine_content, write_json

BATCH = 50
SECONDS = 20  # of processor time, for one case
GROWTH = 1 << 30  # bytes that one batch may add
MEMORY = 3 << 30  # bytes of address space that one batch gets, so that a fault leaves the machine alone
LIBRARIES = ('mmdet', 'mmseg', 'mmpretrain')


def load(case: Case) -> None:
    """Loads everything of a case, and looks at it.

    Raises:
        DataError: the case is rejected.
        AssertionError: it is accepted, and the result is wrong.
    """
    images = str(case.ann_file.parent / 'images')
    read = dict(type='LoadImageFromFile')
    masks = [read, dict(type='LoadAnnotations', with_bbox=True, with_mask=True), dict(type='PackDetInputs')]
    names = dict(classes=CLASSES)
    configs = dict(
        coco=dict(type='mmdet.CocoDataset', data_prefix=dict(img=images), metainfo=names, pipeline=masks),
        mmengine=dict(type='mmdet.BaseDetDataset', data_prefix=dict(img_path=images), metainfo=names, pipeline=masks),
        cls=dict(
            type='mmpretrain.CustomDataset',
            data_prefix=images,
            classes=CLASSES,
            pipeline=[read, dict(type='PackInputs')],
        ),
        cls_json=dict(
            type='mmpretrain.BaseDataset',
            data_prefix=images,
            classes=CLASSES,
            pipeline=[read, dict(type='PackInputs')],
        ),
        seg=dict(
            type='mmseg.BaseSegDataset',
            data_root=str(case.ann_file),
            data_prefix=dict(img_path='images', seg_map_path='maps'),
            img_suffix='.png',
            metainfo=names,
            pipeline=[read, dict(type='LoadAnnotations'), dict(type='PackSegInputs')],
        ),
    )
    if case.dataset == 'metric':
        with DefaultScope.overwrite_default_scope('mmdet'):
            evaluate(METRICS.build(dict(type='CocoMetric', ann_file=str(case.ann_file), metric=['bbox', 'segm'])))
        return
    config = configs[case.dataset] | case.options
    if case.dataset != 'seg':
        config['ann_file'] = str(case.ann_file)
    scope = config['type'].split('.')[0]
    with DefaultScope.overwrite_default_scope(scope):
        dataset = DATASETS.build(config)
        for index in range(len(dataset)):
            check(dataset[index])


def evaluate(metric) -> None:
    """As a validation: the classes are checked before, and one prediction is compared with the ground truth."""
    metric.dataset_meta = dict(classes=CLASSES)
    check_metric(metric, metric.dataset_meta)
    square = np.zeros((HEIGHT, WIDTH), bool)
    square[3:11, 2:12] = True
    for image in metric._coco_api.get_img_ids():
        found = dict(
            bboxes=torch.tensor([[2.0, 3.0, 12.0, 11.0]]),
            scores=torch.tensor([0.9]),
            labels=torch.tensor([1]),
            masks=torch.from_numpy(square[None]),
        )
        metric.process({}, [dict(img_id=image, ori_shape=(HEIGHT, WIDTH), pred_instances=found)])
    scores = metric.evaluate(len(metric._coco_api.get_img_ids()))
    assert all(-1 <= score <= 1 for score in scores.values()), scores


def check(sample: dict) -> None:
    """What any right result has."""
    image, truth = sample['inputs'], sample['data_samples']
    assert image.shape == (3, HEIGHT, WIDTH), image.shape
    if 'gt_instances' in truth:
        objects = truth.gt_instances
        assert np.isfinite(objects.bboxes.numpy()).all(), objects.bboxes
        assert ((objects.labels >= 0) & (objects.labels < len(CLASSES))).all(), objects.labels
        masks = objects.masks.masks
        assert masks.shape[1:] == (HEIGHT, WIDTH), masks.shape
        assert masks.size == 0 or masks.max() <= 1, f'a mask has the value {masks.max()}'
    elif 'gt_sem_seg' in truth:
        labels = truth.gt_sem_seg.data
        assert labels.shape[1:] == (HEIGHT, WIDTH), labels.shape
        assert ((labels < len(CLASSES)) | (labels == 255)).all(), labels.unique()
    else:
        assert ((truth.gt_label >= 0) & (truth.gt_label < len(CLASSES))).all(), truth.gt_label


def outcome(case: Case, folder: Path) -> tuple[str, str]:
    """'right', 'rejected' or a kind of fault, and its description."""
    try:
        with open(os.devnull, 'w') as nowhere, redirect_stdout(nowhere):
            load(case)
        result, detail = 'right', ''
    except DataError as error:
        result, detail = 'rejected', str(error)
        if not detail.isprintable() or len(detail) > 2000 or str(folder) not in detail and '/dev/' not in detail:
            result = 'not one sentence with a file'
    except AssertionError as error:
        result, detail = 'wrong result', traceback.format_exc()[-600:] if not str(error) else str(error)[:300]
        if str(folder) and '/site-packages/' in traceback.format_exc().splitlines()[-3]:
            result = 'foreign error'
    except Exception as error:
        result, detail = 'foreign error', f'{type(error).__name__}: {error} {traceback.format_exc()[-500:]}'
    if (folder / 'code_ran').exists():
        result = 'code ran'
    return result, detail


def run_batch(first: int, count: int, seed: int, root: Path) -> tuple[list, int]:
    """Outcomes of some cases in a process of their own, and its peak memory above that of this one, in bytes."""
    done, last = [], first
    growth = 0
    while last < first + count:
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            run_in_child(last, first + count, seed, root, writing)
        os.close(writing)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with os.fdopen(reading) as lines:
            reports = [json.loads(line) for line in lines]
        _, status, usage = os.wait4(child, 0)
        growth = max(growth, (usage.ru_maxrss - before) * 1024)
        done += reports
        last += len(reports)
        if status:  # the case after the last report
            ended = signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else f'status {status >> 8}'
            kind = 'no end' if ended in ('SIGXCPU', 'SIGALRM', 'SIGKILL') else 'crash'
            with tempfile.TemporaryDirectory(dir=root) as folder:
                name = make_case(Path(folder, 'case'), seed, last).kind
            done.append([last, name, kind, ended])
            last += 1
    return done, growth


def run_in_child(first: int, end: int, seed: int, root: Path, pipe: int) -> None:
    try:
        with open(os.devnull, 'w') as silent:
            os.dup2(silent.fileno(), 2)  # decoders print there
        pages = int(Path('/proc/self/statm').read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY,) * 2)
        for number in range(first, end):
            used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
            resource.setrlimit(resource.RLIMIT_CPU, (int(used) + SECONDS + 1, resource.RLIM_INFINITY))
            signal.alarm(10 * SECONDS)
            folder = root / f'{number}'
            case = make_case(folder, seed, number)
            report = [number, case.kind, *outcome(case, folder)]
            shutil.rmtree(folder, ignore_errors=True)
            os.write(pipe, json.dumps(report).encode() + b'\n')
        os._exit(0)
    except BaseException:
        os._exit(1)


def warm_up(root: Path) -> None:
    """Loads whole data sets, so that the processes of the batches share what the first use imports."""
    PIL.Image.init()
    torch.set_num_threads(1)  # a process with threads may not fork
    folder = root / 'whole'
    make_images(folder)
    with open(os.devnull, 'w') as nowhere, redirect_stdout(nowhere):
        for dataset, content in [('coco', coco()), ('metric', coco()), ('mmengine', mmengine_content())]:
            load(Case('whole', dataset, write_json(folder, content)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--cases', type=int, default=3000)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--first', type=int, default=0, help='number of the first case (default: %(default)s)')
    parser.add_argument('--minutes', type=float, help='stop after these, whatever --cases says')
    parser.add_argument('--show', type=int, default=10, help='faults to print (default: %(default)s)')
    args = parser.parse_args()
    warnings.simplefilter('ignore')
    for library in LIBRARIES:
        register_modules(library)
    install_dataset_errors()
    started, table, faults, largest, tried = time.monotonic(), Counter(), [], 0, 0
    with tempfile.TemporaryDirectory(prefix='fuzz_annotations') as root:
        warm_up(Path(root))
        while tried < args.cases and not (args.minutes and time.monotonic() - started > 60 * args.minutes):
            reports, growth = run_batch(args.first + tried, min(BATCH, args.cases - tried), args.seed, Path(root))
            tried, largest = tried + len(reports), max(largest, growth)
            if growth > GROWTH:
                faults.append(f'cases {reports[0][0]} to {reports[-1][0]} took {growth >> 20} MiB')
            for number, kind, result, detail in reports:
                table[kind, result] += 1
                if result not in ('right', 'rejected'):
                    faults.append(f'case {number}, {kind}: {result}: {detail}')
    for (kind, result), count in sorted(table.items()):
        print(f'{kind:24}{result:30}{count:6}')
    print(
        f'{tried} cases of seed {args.seed} in {time.monotonic() - started:.0f} s, at most {largest >> 20} MiB more '
        f'memory in a batch, {len(faults)} faults'
    )
    sys.exit('\n'.join(faults[: args.show]) or None)


if __name__ == '__main__':
    main()
