"""Trains a model of mmdet, mmseg or mmpretrain from a config."""

import logging
from pathlib import Path

import torch
from mmengine.device import get_device
from mmengine.dist import is_main_process
from mmengine.logging import print_log

from mmvmamba.engine.data_check import check_data
from mmvmamba.engine.errors import LaunchError
from mmvmamba.engine.launch import argument_parser, build_runner, checkpoint_folder, launching, load_config
from mmvmamba.engine.ranks import start_ranks
from mmvmamba.engine.whole_files import check_folder, last_named, newest_whole_checkpoint

# load_from may be a detector of other classes, whose heads differ; less than this is the checkpoint of another model
LEAST_TO_FINE_TUNE = 0.5
# a checkpoint holds a weight and the two averages of AdamW
BYTES_A_PARAMETER = 12


def parse_args(argv=None):
    parser = argument_parser(__doc__)
    parser.add_argument('--amp', action='store_true', help='train in mixed precision')
    parser.add_argument('--auto-scale-lr', action='store_true', help='scale the learning rate to the total batch size')
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='continue from this checkpoint, or, without a name, from the latest one in the work dir',
    )
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    with launching(args):
        cfg = load_config(args)
        if args.amp:
            use_mixed_precision(cfg)
        if args.auto_scale_lr:
            scale_learning_rate(cfg)
        choose_checkpoint(cfg, args.resume)
        check_data(cfg, 'train', *(['val'] if cfg.get('val_cfg') else []))
        start_ranks(cfg)
        least = 1 if cfg.resume else LEAST_TO_FINE_TUNE
        runner = build_runner(cfg, least=least, needs_training_state=cfg.resume)
        if is_main_process():
            check_folder(checkpoint_folder(cfg), BYTES_A_PARAMETER * count_parameters(runner.model))
        runner.train()


def use_mixed_precision(cfg):
    if get_device() == 'cpu':
        raise LaunchError('--amp needs a GPU')
    wrapper = cfg.optim_wrapper
    if wrapper.get('type', 'OptimWrapper') not in ('OptimWrapper', 'AmpOptimWrapper'):
        raise LaunchError(f'--amp replaces an OptimWrapper, but optim_wrapper of this config is a {wrapper.type}')
    wrapper.type = 'AmpOptimWrapper'
    wrapper.setdefault('loss_scale', 'dynamic')


def scale_learning_rate(cfg):
    if 'base_batch_size' not in (cfg.get('auto_scale_lr') or {}):
        raise LaunchError(
            '--auto-scale-lr needs the batch size that the learning rate is for: '
            'set auto_scale_lr=dict(base_batch_size=...) in the config'
        )
    cfg.auto_scale_lr.enable = True


def count_parameters(model):
    return sum(parameter.numel() for parameter in model.parameters()) if isinstance(model, torch.nn.Module) else 0


def choose_checkpoint(cfg, resume):
    """Settles `cfg.resume` and `cfg.load_from`, so that the checkpoint can be read before the Runner is built."""
    if resume not in (None, 'auto'):
        cfg.resume, cfg.load_from = True, resume
    elif resume == 'auto' or (cfg.get('resume') and not cfg.get('load_from')):
        newest = newest_whole_checkpoint(checkpoint_folder(cfg)) or last_named(Path(cfg.work_dir))
        cfg.resume = newest is not None
        if newest:
            cfg.load_from = str(newest)
        else:
            print_log(
                f'Nothing to resume in {cfg.work_dir}: training starts at the first iteration.',
                logger='current',
                level=logging.WARNING,
            )
    else:
        cfg.resume = cfg.get('resume', False)


if __name__ == '__main__':
    main()
