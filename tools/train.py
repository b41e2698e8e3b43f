"""Trains a model of mmdet, mmseg or mmpretrain from a config."""

import argparse
import logging
import signal
from pathlib import Path

if __name__ == '__main__':
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during the imports, which take seconds, needs no traceback

import torch
from mmengine.device import get_device
from mmengine.logging import print_log

from mmvmamba.engine.arguments import add_arguments, load_config
from mmvmamba.engine.config_paths import check_config_paths
from mmvmamba.engine.distributed import init_process_group, on_main_process
from mmvmamba.engine.errors import LaunchError
from mmvmamba.engine.full_disk import reporting_full_disk
from mmvmamba.engine.hooks.resume_report import ResumeReportHook
from mmvmamba.engine.hooks.stale_checkpoints import StaleCheckpointsHook
from mmvmamba.engine.hooks.unused_parameters import UnusedParametersHook
from mmvmamba.engine.interruption import describing_interrupt
from mmvmamba.engine.newest_checkpoint import newest_complete_checkpoint, path_in_last_checkpoint_file
from mmvmamba.engine.runner import build_runner, checkpoint_folder
from mmvmamba.engine.tool_session import tool_session
from mmvmamba.engine.work_dir import check_space, claim_folders

# With load_from, a checkpoint must contain this fraction of the model's tensors. The checkpoint of a detector for other
# classes fits except for parts of the heads.
MIN_LOADED_FRACTION = 0.5
# A checkpoint contains the weight and the two averages of AdamW.
BYTES_PER_PARAMETER = 12


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser, 'config', 'work_dir', 'cfg_options', 'launcher', 'trust_checkpoint', 'trust_annotations')
    parser.add_argument(
        '--amp',
        action=argparse.BooleanOptionalAction,
        help='train in mixed precision, or in float32 (default: as in the config)',
    )
    parser.add_argument('--auto-scale-lr', action='store_true', help='scale the learning rate to the total batch size')
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='continue from this checkpoint (default without a value: the latest checkpoint in the work dir)',
    )
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    with tool_session(args):  # reads checkpoints and data safely, and reports known errors in one line
        cfg = load_config(args.config, args.cfg_options, args.work_dir, args.launcher)
        choose_precision(cfg, args.amp)
        if args.auto_scale_lr:
            scale_learning_rate(cfg)
        check_config_paths(cfg, 'train', *(['val'] if cfg.get('val_cfg') else []))
        init_process_group(cfg)
        folder = checkpoint_folder(cfg)
        with claim_folders(Path(cfg.work_dir), folder), reporting_full_disk(folder):
            choose_checkpoint(cfg, args.resume)
            min_loaded_fraction = 1.0 if cfg.resume else MIN_LOADED_FRACTION
            runner = build_runner(cfg, min_loaded_fraction=min_loaded_fraction, needs_training_state=cfg.resume)
            size = BYTES_PER_PARAMETER * count_parameters(runner.model)
            on_main_process(lambda: check_space(folder, size))
            for hook in (ResumeReportHook, StaleCheckpointsHook, UnusedParametersHook):
                if not any(isinstance(registered, hook) for registered in runner.hooks):
                    runner.register_hook(hook())
            with describing_interrupt(lambda: where_it_stopped(runner, cfg)):
                runner.train()


def where_it_stopped(runner, cfg):
    checkpoint = checkpoint_to_resume(cfg)
    way_on = f'To continue from {checkpoint}, pass --resume' if checkpoint else 'No checkpoint has been written yet'
    return f'stopped at iteration {runner.iter}. {way_on}.'


def checkpoint_to_resume(cfg):
    return newest_complete_checkpoint(checkpoint_folder(cfg)) or path_in_last_checkpoint_file(Path(cfg.work_dir))


def choose_precision(cfg, amp):
    """Applies `--amp` or `--no-amp`, and rejects mixed precision if this machine does not support it."""
    wrapper = cfg.optim_wrapper
    if amp is None:
        if is_mixed(wrapper) and not has_mixed_precision():
            raise LaunchError('optim_wrapper of this config is an AmpOptimWrapper, which needs a GPU: add --no-amp')
        return
    kind = 'AmpOptimWrapper' if is_mixed(wrapper) else wrapper.get('type', 'OptimWrapper')
    option = '--amp' if amp else '--no-amp'
    if amp and not has_mixed_precision():
        raise LaunchError('--amp needs a GPU')
    if kind not in ('OptimWrapper', 'AmpOptimWrapper'):
        raise LaunchError(f'{option} replaces an OptimWrapper, but optim_wrapper of this config is a {kind}')
    if amp:
        wrapper.type = 'AmpOptimWrapper'
        wrapper.setdefault('loss_scale', 'dynamic')
    else:
        wrapper.type = 'OptimWrapper'
        for argument in ('loss_scale', 'dtype', 'use_fsdp'):
            wrapper.pop(argument, None)


def is_mixed(wrapper):
    kind = wrapper.get('type')
    return (kind if isinstance(kind, str) else getattr(kind, '__name__', '')).endswith('AmpOptimWrapper')


def has_mixed_precision():
    """Whether MMEngine supports mixed precision on the device that it selects."""
    return get_device() not in ('cpu', 'mps')


def scale_learning_rate(cfg):
    if 'base_batch_size' not in (cfg.get('auto_scale_lr') or {}):
        raise LaunchError(
            '--auto-scale-lr needs the total batch size for which the learning rate is set: add '
            'auto_scale_lr=dict(base_batch_size=...) to the config'
        )
    cfg.auto_scale_lr.enable = True


def count_parameters(model):
    """Returns 0 with a FlexibleRunner, whose model is a config before training."""
    return sum(parameter.numel() for parameter in model.parameters()) if isinstance(model, torch.nn.Module) else 0


def choose_checkpoint(cfg, resume):
    """Sets `cfg.resume` and `cfg.load_from`, so that the checkpoint can be read before the Runner is built."""
    if resume not in (None, 'auto'):
        cfg.resume, cfg.load_from = True, resume
    elif resume == 'auto' or (cfg.get('resume') and not cfg.get('load_from')):
        newest = checkpoint_to_resume(cfg)
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
