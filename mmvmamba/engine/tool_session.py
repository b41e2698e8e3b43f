"""The context in which a tool runs: safe readers of checkpoints and data, and errors of one line."""

import sys
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from mmengine.dist import is_distributed

from ..checkpoint import CheckpointError, trust_checkpoints
from .checks.annotation_formats import trust_annotations
from .errors import DataError, LaunchError, TrainingError
from .interruption import Interrupted, exit_after_interrupt, is_interrupt, one_interrupt
from .patches.checkpoint_loader import install_checkpoint_loader
from .patches.dataset_errors import install_dataset_errors


@contextmanager
def tool_session(args: Namespace) -> Iterator[None]:
    """Runs a tool. Known errors end it with one line and exit status 1, Ctrl-C with one line and exit status 130.

    Args:
        args: `trust_checkpoint` and `trust_annotations` are read; they default to False.
    """
    checkpoints, annotations = (getattr(args, f'trust_{what}', False) for what in ('checkpoint', 'annotations'))
    try:
        with one_interrupt(), trust_checkpoints(checkpoints), trust_annotations(annotations):
            install_checkpoint_loader()
            install_dataset_errors()
            yield
    except (LaunchError, CheckpointError, DataError, TrainingError) as error:
        sys.exit(f'{Path(sys.argv[0]).name}: {error}')
    except Interrupted as error:
        exit_after_interrupt(str(error))
    except (KeyboardInterrupt, Exception) as error:
        if is_interrupt(error):
            exit_after_interrupt('stopped.')
        raise
    if is_distributed():
        torch.distributed.destroy_process_group()
