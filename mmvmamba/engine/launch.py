"""From a command line to a Runner that can start: what tools/train.py and tools/test.py share.

One file serves mmdet, mmseg and mmpretrain configs: the config's `default_scope` says whose it is. What a user can
put right is found before training starts, and reported in one sentence.
"""

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, DictAction
from mmengine.dist import is_distributed
from mmengine.registry import MODELS, RUNNERS
from mmengine.runner import CheckpointLoader, Runner

from ..checkpoint import CheckpointError, match_checked, read_checkpoint, trust_checkpoints, unwrap_state_dict
from .checks.annotation_formats import OPTION, trust_annotations
from .checks.guards import guard_files
from .data_check_hook import DataCheckHook
from .errors import DataError, LaunchError, TrainingError
from .libraries import cannot_import, import_libraries
from .named_files import name_files
from .place_hook import PlaceOfficialNamesHook
from .training_state import believe_only_names, check_training_state
from .whole_files import write_whole_files


def argument_parser(description: str) -> ArgumentParser:
    """A parser with the arguments that training and testing share."""
    parser = ArgumentParser(description=description)
    parser.add_argument('config', help='config file of mmdet, mmseg or mmpretrain')
    parser.add_argument('--work-dir', help='folder for logs and results (default: work_dirs/<name of the config>)')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        metavar='KEY=VALUE',
        help='change the config: a.b.c=value, lists as key="[a,b]" or key=a,b, without blanks',
    )
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm'], default='none')
    parser.add_argument(
        '--trust-checkpoint',
        action='store_true',
        help='also read checkpoints that hold more than data; this runs the code that they name',
    )
    parser.add_argument(
        OPTION,
        action='store_true',
        help='also read annotation files that are pickles or YAML of more than data; this runs the code that they name',
    )
    return parser


@contextmanager
def launching(args: Namespace) -> Iterator[None]:
    """Runs a tool: known errors end it with one line and exit status 1, and checkpoints are read by us throughout."""
    try:
        trusts_annotations = getattr(args, 'trust_annotations', False)  # the demos build no data sets
        with trust_checkpoints(args.trust_checkpoint), trust_annotations(trusts_annotations):
            guard_files()
            _hand_over('')
            write_whole_files()
            yield
    except (LaunchError, CheckpointError, DataError, TrainingError) as error:
        sys.exit(f'{Path(sys.argv[0]).name}: {error}')
    if is_distributed():
        torch.distributed.destroy_process_group()


def load_config(args: Namespace) -> Config:
    """Reads the config, applies the command line, and imports the libraries that it needs."""
    if not Path(args.config).is_file():
        raise LaunchError(f'config {args.config} does not exist')
    try:
        cfg = Config.fromfile(args.config)
    except ImportError as error:
        raise cannot_import(args.config, error) from error
    if args.cfg_options:
        cfg.merge_from_dict(args.cfg_options)
    cfg.compile = compiler_options(cfg.get('compile', False))
    cfg.launcher = args.launcher
    cfg.work_dir = args.work_dir or cfg.get('work_dir') or str(Path('work_dirs', Path(args.config).stem))

    import_libraries(cfg, args.config)
    name_files()
    return cfg


def build_runner(cfg: Config, least: float = 1.0, needs_training_state: bool = False) -> Runner:
    """Builds the Runner, after reading the checkpoint that it is going to load, and compares the two.

    Args:
        cfg: complete config; `cfg.load_from` names the checkpoint, if any.
        least: share of the model's tensors that must fit, see `match_checked`.
        needs_training_state: whether the checkpoint is there to resume from.

    Raises:
        CheckpointError: the checkpoint is refused, unreadable, or does not fit.
    """
    if not cfg.get('load_from'):
        return _new_runner(cfg)
    checkpoint = read_checkpoint(cfg.load_from)
    state_dict = unwrap_state_dict(checkpoint, cfg.load_from)
    if needs_training_state:
        check_training_state(checkpoint, cfg.load_from)
        randomness = cfg.get('randomness') or {}
        if randomness.get('seed') is None:  # the data are shuffled by it before mmengine would take it
            cfg.randomness = {**randomness, 'seed': checkpoint['meta'].get('seed')}
    believe_only_names(checkpoint, checkpoint_folder(cfg))
    _hand_over(cfg.load_from, checkpoint)
    runner = _new_runner(cfg)
    # FlexibleRunner builds its model only when it starts
    model = runner.model if isinstance(runner.model, torch.nn.Module) else MODELS.build(cfg.model)
    runner.register_hook(PlaceOfficialNamesHook(match_checked(model, state_dict, cfg.load_from, least)))
    return runner


def _new_runner(cfg: Config) -> Runner:
    runner = RUNNERS.build(cfg) if cfg.get('runner_type') else Runner.from_cfg(cfg)
    runner.register_hook(DataCheckHook())
    return runner


def compiler_options(compile: bool | dict[str, Any]) -> bool | dict[str, Any]:
    """`cfg.compile` as MMEngine hands it to `torch.compile`, so that it can compile for a CPU, too.

    There Inductor may choose other layouts for maps around a convolution, and stops at the second image size when it
    compares strides that have become symbols ('cannot determine truth value of Relational').
    """
    if not compile or torch.cuda.is_available():
        return compile
    options = {} if compile is True else dict(compile)
    if options.get('backend', 'inductor') == 'inductor' and 'mode' not in options:
        options['options'] = {'layout_optimization': False, **options.get('options', {})}
    return options


def checkpoint_folder(cfg: Config) -> Path:
    """Where CheckpointHook writes: with an `out_dir`, in a folder there that is named like the work dir.

    It is the work dir itself if the checkpoints go to another store (`s3://`).
    """
    out_dir = str(((cfg.get('default_hooks') or {}).get('checkpoint') or {}).get('out_dir') or '')
    is_local = out_dir and '://' not in out_dir
    return Path(out_dir, Path(cfg.work_dir).resolve().name) if is_local else Path(cfg.work_dir)


# Reading checkpoints inside mmengine

# The names of the libraries' own model zoos (torchvision://, open-mmlab://) stay as they are: they stand for a fixed
# list of files.
_SCHEMES = ['', 'http://', 'https://', 'hf://', 'pavi://', r'(\S+\:)?s3://', r'(\S+\:)?petrel://']


def _hand_over(filename: str, checkpoint: dict | None = None) -> None:
    """Makes mmengine take what has been read of this file once, and read all others through `read_checkpoint`.

    Its own loader unpickles a file that the safe reader refused, and every file that comes from a URL.
    """
    held = {filename: checkpoint} if checkpoint else {}

    def load_from_checked_file(filename: str, map_location: Any) -> dict:  # mmengine logs the end of this name
        checkpoint = held.pop(filename, None)
        if checkpoint is None:
            checkpoint = read_checkpoint(filename, map_location or 'cpu')
            believe_only_names(checkpoint, None)
        if 'state_dict' not in checkpoint:
            checkpoint = {'state_dict': unwrap_state_dict(checkpoint, filename)}
        return checkpoint

    CheckpointLoader.register_scheme(_SCHEMES, load_from_checked_file, force=True)
