"""Command-line arguments that several tools share, and reading of the config that they name."""

import argparse
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, DictAction
from mmengine.device import get_device

from .checks.annotation_formats import OPTION
from .config_values import check_config_values
from .deferred_pretrained import defer_pretrained
from .errors import LaunchError
from .libraries import cannot_import, import_libraries

ARGUMENTS: dict[str, tuple[str, dict[str, Any]]] = {
    'config': ('config', dict(help='config file of mmdet, mmseg or mmpretrain')),
    'cfg_options': (
        '--cfg-options',
        dict(
            nargs='+',
            action=DictAction,
            metavar='KEY=VALUE',
            help='override config settings: a.b.c=value, lists as key="[a,b]" or key=a,b, without spaces',
        ),
    ),
    'device': ('--device', dict(default=get_device(), help='default: %(default)s')),
    'work_dir': ('--work-dir', dict(help='folder for logs and results (default: work_dirs/<name of the config>)')),
    'launcher': ('--launcher', dict(choices=['none', 'pytorch', 'slurm'], default='none')),
    'trust_checkpoint': (
        '--trust-checkpoint',
        dict(
            action='store_true',
            help='allow checkpoints that contain more than data; loading them can execute arbitrary code',
        ),
    ),
    'trust_annotations': (
        OPTION,
        dict(
            action='store_true',
            help='allow annotation files that are pickles, or YAML that contains more than data; loading them can '
            'execute arbitrary code',
        ),
    ),
}


def add_arguments(parser: argparse.ArgumentParser, *names: str) -> None:
    """Adds arguments of `ARGUMENTS` to a parser."""
    for name in names:
        flag, settings = ARGUMENTS[name]
        parser.add_argument(flag, **settings)


def load_config(
    path: str | Path, cfg_options: dict | None = None, work_dir: str | None = None, launcher: str = 'none'
) -> Config:
    """Reads a config, applies the command line, and imports the libraries that the config needs.

    Raises:
        LaunchError: the file does not exist, a library is missing or broken, or a setting is invalid.
    """
    if not Path(path).is_file():
        raise LaunchError(f'config {path} does not exist')
    try:
        cfg = Config.fromfile(path)
    except ImportError as error:
        raise cannot_import(str(path), error) from error
    if cfg_options:
        cfg.merge_from_dict(cfg_options)
    cfg.compile = compiler_options(cfg.get('compile', False))
    cfg.launcher = launcher
    cfg.work_dir = work_dir or cfg.get('work_dir') or str(Path('work_dirs', Path(path).stem))
    import_libraries(cfg, str(path))
    check_config_values(cfg)
    defer_pretrained(cfg)
    return cfg


def compiler_options(compile: bool | dict[str, Any]) -> bool | dict[str, Any]:
    """Changes `cfg.compile`, which MMEngine passes to `torch.compile`, so that models compile for a CPU.

    On a CPU, Inductor may choose other layouts for maps around a convolution. It then fails at the second image size,
    when it compares symbolic strides ('cannot determine truth value of Relational').
    """
    if not compile or torch.cuda.is_available():
        return compile
    options = {} if compile is True else dict(compile)
    if options.get('backend', 'inductor') == 'inductor' and 'mode' not in options:
        options['options'] = {'layout_optimization': False, **options.get('options', {})}
    return options
