"""What a run prints: a short header, warnings and progress. Its log file also contains the details."""

import logging
import re
from typing import Any

import torch
from mmengine.device import get_device
from mmengine.dist import get_world_size
from mmengine.logging import MMLogger
from mmengine.runner import Runner

from ..ops.backend import current_backend
from ..ops.scan.backends import SCAN

# The starts of messages of MMEngine, of the task libraries and of LayerDecayOptimWrapperConstructor. The two warnings
# are about calls inside mmdet, which users cannot change.
FILE_ONLY = re.compile(
    r"""
    \n-+\nSystem\ environment:
    | Config:\n
    | Hooks\ will\ be\ executed\ in\ the\ following\ order
    | Distributed\ training\ is\ not\ used,\ all\ SyncBatchNorm
    | paramwise_options\ --
    | depth\ \d+:\ \d+\ tensors,
    | Build\ \w*LearningRateDecayOptimi[sz]er
    | Param\ groups\ =
    | "FileClient"\ will\ be\ deprecated
    | "HardDiskBackend"\ is\ the\ alias
    """,
    re.VERBOSE,
)


def is_for_terminal(record: logging.LogRecord) -> bool:
    return FILE_ONLY.match(record.getMessage()) is None


class TerminalRunner(Runner):
    """A Runner that writes its environment, config, hooks and parameter groups only to the log file."""

    def build_logger(self, *args, **kwargs) -> MMLogger:
        logger = super().build_logger(*args, **kwargs)
        for handler in logger.handlers:
            if not isinstance(handler, logging.FileHandler):
                handler.addFilter(is_for_terminal)
        return logger


def log_header(runner: Runner) -> None:
    """Logs what a run uses: config, folders, device, model and scan backend."""
    log_file = next((h.baseFilename for h in runner.logger.handlers if isinstance(h, logging.FileHandler)), 'none')
    device, threads = get_device(), torch.get_num_threads()
    lines = {'config': runner.cfg.filename or runner.experiment_name, 'work dir': runner.work_dir, 'log file': log_file}
    lines['device'] = f'cpu, {threads} thread{"s" * (threads > 1)}' if device == 'cpu' else device
    if device == 'cuda':
        lines['device'] = torch.cuda.get_device_name()
    if get_world_size() > 1:
        lines['device'] += f', {get_world_size()} processes'
    if isinstance(runner.model, torch.nn.Module):  # a FlexibleRunner builds its model later
        millions = sum(parameter.numel() for parameter in runner.model.parameters()) / 1e6
        lines['model'] = f'{type(_unwrapped(runner.model)).__name__}, {millions:.2f} million parameters'
        if any(type(module).__module__.startswith('mmvmamba.') for module in runner.model.modules()):
            lines['scan'] = _scan_backend(device)
    runner.logger.info('\n' + '\n'.join(f'{name:10}{value}' for name, value in lines.items()))


def _unwrapped(model: Any) -> torch.nn.Module:
    return getattr(model, 'module', model)


def _scan_backend(device: str) -> str:
    """Returns the name of the backend, or why none can run; the first scan will raise this error."""
    try:
        return SCAN.find_backend(torch.device(device).type, [torch.float32], current_backend())[0].name
    except (RuntimeError, ValueError) as error:
        return str(error)
