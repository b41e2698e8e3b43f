"""The processes of a distributed run, on GPUs or CPUs."""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta

import torch.distributed
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import broadcast_object_list, init_dist, is_main_process
from mmengine.model import MMDistributedDataParallel, revert_sync_batchnorm
from mmengine.registry import MODEL_WRAPPERS
from mmengine.utils.dl_utils import set_multi_processing
from torch import nn

from .errors import LaunchError

PR_SET_PDEATHSIG = 1  # prctl(2)


@MODEL_WRAPPERS.register_module()
class CPUDistributedDataParallel(MMDistributedDataParallel):
    """MMDistributedDataParallel for gloo. SyncBN, which needs GPUs, becomes BN, as in a run with one process.

    The arguments are those of MMDistributedDataParallel; `device_ids` must be None.
    """

    def __init__(self, module: nn.Module, **kwargs):
        super().__init__(module=revert_sync_batchnorm(module), **kwargs)


def _end_with_parent() -> None:
    """Makes Linux end this rank when its launcher dies, even by SIGKILL.

    Raises:
        LaunchError: the launcher has died already. The rank would wait half an hour for the others.
    """
    if sys.platform == 'linux':
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    launcher = os.environ.get('MMVMAMBA_LAUNCHER')  # of dist_train.sh and dist_test.sh
    if launcher and os.getppid() != int(launcher):
        raise LaunchError(f'the launcher of this rank, process {launcher}, has ended: start the job again')


def _read_slurm_variables(port: int | None) -> None:
    """Sets the variables that PyTorch reads from those that srun has set, like mmengine, which requires GPUs.

    The default port depends on the job, so that two jobs on one node do not meet.

    Raises:
        LaunchError: srun has not started this process.
    """
    env = os.environ
    if 'SLURM_PROCID' not in env:
        raise LaunchError('--launcher slurm needs srun: use tools/slurm_train.sh or slurm_test.sh')
    if 'MASTER_ADDR' not in env:
        nodes = subprocess.check_output(['scontrol', 'show', 'hostnames', env['SLURM_NODELIST']], text=True)
        env['MASTER_ADDR'] = nodes.split()[0]
    if port or 'MASTER_PORT' not in env:
        env['MASTER_PORT'] = str(port or 20000 + int(env['SLURM_JOB_ID']) % 10000)
    env['RANK'], env['WORLD_SIZE'], env['LOCAL_RANK'] = (
        env[f'SLURM_{name}'] for name in ('PROCID', 'NTASKS', 'LOCALID')
    )


def init_process_group(cfg: Config) -> None:
    """Joins the process group that `cfg.launcher` describes, before the Runner is built.

    On GPUs, mmengine starts the group. Without GPUs, mmengine would still choose one. The ranks then communicate over
    gloo, and `cfg.model_wrapper_cfg` is set to a wrapper without device ids.

    Raises:
        LaunchError: srun has not started this process although the launcher is slurm, or the launcher has ended.
    """
    if cfg.launcher == 'none':
        return
    _end_with_parent()
    env = cfg.get('env_cfg') or {}
    dist_cfg = dict(env.get('dist_cfg') or {})
    set_multi_processing(**env.get('mp_cfg', {}), distributed=True)
    if cfg.launcher == 'slurm':
        _read_slurm_variables(dist_cfg.get('port'))
    if get_device() != 'cpu':
        init_dist(cfg.launcher, **dist_cfg)
        return
    timeout = timedelta(seconds=dist_cfg['timeout']) if 'timeout' in dist_cfg else None
    torch.distributed.init_process_group('gloo', timeout=timeout)
    # the defaults are mmengine's
    wrapper = dict(broadcast_buffers=False, find_unused_parameters=cfg.get('find_unused_parameters', False))
    wrapper = {'type': 'MMDistributedDataParallel', **(cfg.get('model_wrapper_cfg') or wrapper), 'device_ids': None}
    if wrapper['type'] == 'MMDistributedDataParallel':
        wrapper['type'] = 'CPUDistributedDataParallel'
    cfg.model_wrapper_cfg = wrapper


def on_main_process(action: Callable[[], None]) -> None:
    """Calls `action` on the first rank. All ranks wait for it, and raise its LaunchError if there is one."""
    message: list[str | None] = [None]
    if is_main_process():
        try:
            action()
        except LaunchError as error:
            message = [str(error)]
    broadcast_object_list(message)
    if message[0] is not None:
        raise LaunchError(message[0])
