"""Checks the datasets of a config: files, annotations, masks, labels, class names, and the heads of the model.

Reads every image and annotation of train_dataloader, val_dataloader and test_dataloader, and prints one line for each
problem, with the file, the entry, what was found and what was expected. The exit status is 1 if there is a problem.
Lines with `warning` do not count: they name what is unusual, but may be intended.
tools/train.py and tools/test.py run the same checks, but stop at the first problem.

    python tools/analysis_tools/check_dataset.py CONFIG.py
"""

import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Callable, Iterator, Mapping
from contextlib import redirect_stdout
from typing import Any

from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import DATASETS, METRICS, MODELS, DefaultScope
from mmengine.utils import track_iter_progress
from torch import nn
from torch.utils.data import DataLoader, Dataset

from mmvmamba.engine.arguments import add_arguments, load_config
from mmvmamba.engine.checks.channels import check_channels
from mmvmamba.engine.checks.class_counts import check_class_counts
from mmvmamba.engine.checks.image_scale import image_scale, load_samples, scale_warning
from mmvmamba.engine.checks.label_maps import MapValues, is_segmentation, map_fault, map_warnings
from mmvmamba.engine.checks.reporting import warn, warnings_to
from mmvmamba.engine.config_paths import missing_paths
from mmvmamba.engine.config_values import palette_fault
from mmvmamba.engine.errors import DataError, LaunchError
from mmvmamba.engine.hooks.dataset_check import check_metric
from mmvmamba.engine.patches.dataset_errors import load_sample
from mmvmamba.engine.tool_session import tool_session


def parse_args(argv=None):
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    add_arguments(parser, 'config', 'cfg_options', 'trust_annotations')
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    MMLogger.get_instance('mmengine', log_level='ERROR')
    with tool_session(args):
        cfg = load_config(args.config, args.cfg_options)
        stages = [stage for stage in ('train', 'val', 'test') if cfg.get(f'{stage}_dataloader')]
        if not stages:
            raise LaunchError(f'{args.config} has no train_dataloader, val_dataloader or test_dataloader')
        total, scales, warned, out = 0, {}, set(), sys.stdout
        with DefaultScope.overwrite_default_scope(cfg.get('default_scope') or 'mmengine'):
            model = MODELS.build(cfg.model) if cfg.get('model') else None
            for stage in stages:
                if stage == 'test' and all(cfg.get(f'test_{part}') == cfg.get(f'val_{part}') for part in PARTS):
                    print('test: same as val')
                    continue

                def print_warning(sentence, stage=stage):
                    if sentence not in warned:  # datasets and metrics read the same files
                        print(f'{stage}: warning: {sentence}', file=out, flush=True)  # `caught` redirects stdout
                    warned.add(sentence)

                found = 0
                with warnings_to(print_warning):
                    for problem in problems(cfg, stage, model, scales):
                        print(f'{stage}: {problem}', flush=True)
                        found += 1
                print(f'{stage}: {found or "no"} problem{"s" * (found != 1)}')
                total += found
    if total:
        sys.exit(1)


PARTS = ('dataloader', 'evaluator')


def problems(cfg: Config, stage: str, model: nn.Module | None, scales: dict[str, float | None]) -> Iterator[str]:
    """Yields a sentence for each problem of a stage. `scales` receives the scale of its images."""
    missing = list(missing_paths(cfg, stage))
    yield from missing
    if missing:
        return
    loader = cfg[f'{stage}_dataloader']
    built = []
    yield from caught(lambda: built.append(DATASETS.build(loader.dataset)))
    for dataset in built:
        metainfo = getattr(dataset, 'metainfo', {})
        if model is not None:
            yield from caught(check_class_counts, model, metainfo, f'{stage}_dataloader.dataset')
        if fault := palette_fault(metainfo, f'{stage}_dataloader.dataset'):
            yield fault
        evaluators = cfg.get(f'{stage}_evaluator') or []
        for evaluator in evaluators if isinstance(evaluators, list) else [evaluators]:
            yield from caught(build_and_check_metric, evaluator, metainfo)
        found = False
        for part in parts(dataset):
            batches = DataLoader(
                SampleProblems(part), batch_size=16, num_workers=loader.get('num_workers', 0), collate_fn=list
            )
            maps = []
            for batch in track_iter_progress((batches, len(batches)), file=sys.stderr):
                for sentences, values in batch:
                    yield from sentences
                    found = found or bool(sentences)
                    maps += [values] if values is not None else []
            if is_segmentation(part):
                if fault := map_fault(maps, part):
                    yield fault
                else:
                    for sentence in map_warnings(maps, part):
                        warn(sentence)
        if not found:
            yield from caught(check_inputs, dataset, model, stage, scales)


def check_inputs(dataset: Any, model: nn.Module | None, stage: str, scales: dict[str, float | None]) -> None:
    """Checks what the whole pipeline produces: channels, and the scale compared with that of the training."""
    samples = load_samples(dataset)
    if model is not None and samples:
        check_channels(model, samples[0], f'{stage}_dataloader')
    scales[stage] = image_scale(samples)
    if sentence := scale_warning(scales.get('train'), scales[stage], f'{stage}_dataloader'):
        warn(sentence)


def build_and_check_metric(evaluator: dict, metainfo: Mapping) -> None:
    check_metric(METRICS.build(evaluator), metainfo)


def caught(check: Callable, *args: Any) -> Iterator[str]:
    """Yields the sentences of the DataError that a check raises."""
    try:
        with redirect_stdout(sys.stderr):  # pycocotools prints its progress
            check(*args)
    except DataError as error:
        yield str(error)
        yield from error.others


def parts(dataset: Any) -> Iterator[Any]:
    """Yields the datasets inside wrappers such as RepeatDataset and ConcatDataset."""
    inner = getattr(dataset, 'datasets', None) or ([dataset.dataset] if hasattr(dataset, 'dataset') else [])
    for each in inner:
        yield from parts(each)
    if not inner:
        yield dataset


class SampleProblems(Dataset):
    """Maps the index of a sample to the list of its problems, and the values of its mask."""

    def __init__(self, dataset: Any):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[list[str], MapValues | None]:
        samples = []
        sentences = list(caught(lambda: samples.append(load_sample(self.dataset, index))))
        return sentences, MapValues.of(samples[0]) if samples and samples[0] else None


if __name__ == '__main__':
    main()
