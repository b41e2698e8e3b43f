"""From a command line to a Runner that can start: what tools/train.py and tools/test.py share.

One file serves mmdet, mmseg and mmpretrain configs: the config's ``default_scope`` says whose it is. What a user can
put right is found before training starts, and reported in one sentence.
"""

import sys
from argparse import ArgumentParser
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import torch
from mmengine.config import Config, DictAction
from mmengine.dist import is_distributed
from mmengine.registry import MODELS, RUNNERS
from mmengine.runner import CheckpointLoader, Runner

from ..checkpoint import CheckpointError, check_fits, read_checkpoint, trust_checkpoints, unwrap_state_dict
from .errors import LaunchError
from .official_names import PlaceOfficialNamesHook

# how to get each library that a config may need
_INSTALL = {
    'mmcv': 'pip install --no-build-isolation onedl-mmcv',
    'mmdet': 'pip install onedl-mmdetection',
    'mmseg': 'pip install onedl-mmsegmentation',
    'mmpretrain': 'pip install onedl-mmpretrain',
}


def argument_parser(description):
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
    return parser


@contextmanager
def launching(args):
    """Runs a tool: known errors end it with one line and exit status 1, and checkpoints are read by us throughout."""
    try:
        with trust_checkpoints(args.trust_checkpoint):
            _read_checkpoints_safely()
            yield
    except (LaunchError, CheckpointError) as error:
        sys.exit(f'{Path(sys.argv[0]).name}: {error}')
    if is_distributed():
        torch.distributed.destroy_process_group()


def load_config(args):
    """Reads the config, applies the command line, and imports the libraries that it needs."""
    if not Path(args.config).is_file():
        raise LaunchError(f'config {args.config} does not exist')
    try:
        cfg = Config.fromfile(args.config)
    except ImportError as error:
        raise LaunchError(_cannot_import(args.config, error)) from error
    if args.cfg_options:
        cfg.merge_from_dict(args.cfg_options)
    cfg.launcher = args.launcher
    cfg.work_dir = args.work_dir or cfg.get('work_dir') or str(Path('work_dirs', Path(args.config).stem))

    for library in sorted(_libraries(cfg)):
        if find_spec(library) is None:
            raise LaunchError(f'{args.config} needs {library}, which is not installed: {_INSTALL[library]}')
    scope = cfg.get('default_scope')
    if scope in _INSTALL:
        try:
            import_module(f'{scope}.utils').register_all_modules(init_default_scope=False)
        except ImportError as error:
            raise LaunchError(_cannot_import(f'{scope}, which {args.config} needs,', error)) from error
    if scope == 'mmpretrain':
        _set_mmpretrain_dataloaders(cfg)
    return cfg


def build_runner(cfg, least=1.0, needs_training_state=False):
    """Builds the Runner, after reading the checkpoint that it is going to load, and compares the two.

    Args:
        cfg (Config): complete config; ``cfg.load_from`` names the checkpoint, if any.
        least (float): share of the model's tensors that must fit, see ``check_fits``.
        needs_training_state (bool): whether the checkpoint is there to resume from.

    Raises:
        CheckpointError: the checkpoint is refused, unreadable, or does not fit.
    """
    state_dict = None
    if cfg.get('load_from'):
        checkpoint = read_checkpoint(cfg.load_from)
        state_dict = unwrap_state_dict(checkpoint, cfg.load_from)
        lacking = [key for key in ('meta', 'message_hub', 'optimizer') if key not in checkpoint]
        if needs_training_state and lacking:
            raise CheckpointError(
                f'{cfg.load_from} has no training state ({", ".join(lacking)}) to resume from: '
                'start a new training from its weights with --cfg-options load_from=FILE'
            )
        del checkpoint
    runner = RUNNERS.build(cfg) if cfg.get('runner_type') else Runner.from_cfg(cfg)
    runner.register_hook(PlaceOfficialNamesHook())
    if state_dict is not None:
        # FlexibleRunner builds its model only when it starts
        model = runner.model if isinstance(runner.model, torch.nn.Module) else MODELS.build(cfg.model)
        check_fits(model, state_dict, cfg.load_from, least)
    return runner


# Reading checkpoints inside mmengine


def _read_checkpoints_safely():
    """Makes mmengine itself read files through ``read_checkpoint``.

    Its own loader unpickles a file that the safe reader refused, and every file that comes from a URL. The names of the
    libraries' own model zoos (torchvision://, open-mmlab://) stay as they are: they stand for a fixed list of files.
    """
    schemes = ['', 'http://', 'https://', 'hf://', 'pavi://', r'(\S+\:)?s3://', r'(\S+\:)?petrel://']
    CheckpointLoader.register_scheme(schemes, load_from_checked_file, force=True)


def load_from_checked_file(filename, map_location):
    """A loader for mmengine (which logs the end of its name)."""
    checkpoint = read_checkpoint(filename, map_location or 'cpu')
    if 'state_dict' not in checkpoint:
        checkpoint = {'state_dict': unwrap_state_dict(checkpoint, filename)}
    # resuming executes this entry as a Python config, only to compare a number of GPUs that mmengine no longer saves
    if isinstance(checkpoint.get('meta'), dict):
        checkpoint['meta'].pop('config', None)
    return checkpoint


# Libraries


def _libraries(cfg):
    """The OpenMMLab libraries that a config names, as its scope or in front of a type (``mmpretrain.ConvNeXt``)."""
    needed = {cfg.get('default_scope')}
    waiting = [cfg._cfg_dict]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            if isinstance(node.get('type'), str):
                needed.add(node['type'].split('.')[0])
            waiting.extend(node.values())
        elif isinstance(node, (list, tuple)):
            waiting.extend(node)
    return needed & _INSTALL.keys()


def _cannot_import(what, error):
    library = (getattr(error, 'name', None) or '').split('.')[0]
    known = next((name for name in _INSTALL if name == library or f'{name} is not installed' in str(error)), None)
    way_out = f': {_INSTALL[known]}' if known else ''
    return f'{what} cannot be imported ({" ".join(str(error).split())}){way_out}'


def _set_mmpretrain_dataloaders(cfg):
    """What mmpretrain's configs leave to its tools."""
    for stage in ('train', 'val', 'test'):
        loader = cfg.get(f'{stage}_dataloader')
        if loader:
            loader.setdefault('pin_memory', True)
            loader.setdefault('persistent_workers', loader.get('num_workers', 0) > 0)
            loader.setdefault('collate_fn', dict(type='default_collate'))
