"""CheckpointHook that never leaves an incomplete file under its final name."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mmengine.dist import barrier, is_main_process
from mmengine.fileio import LocalBackend
from mmengine.hooks import CheckpointHook
from mmengine.registry import HOOKS
from mmengine.runner import Runner


@HOOKS.register_module()
class AtomicCheckpointHook(CheckpointHook):
    """Writes each checkpoint under a temporary name, renames it when complete, and only then removes outdated ones.

    `CheckpointHook` removes the old checkpoint first and writes directly to the final name. With `max_keep_ckpts=1`, a
    run that is killed in between has no checkpoint left. `last_checkpoint` is also replaced in one step.

    The arguments are those of `CheckpointHook`. Checkpoints in a remote `out_dir` such as `s3://...`, and the models of
    `published_keys`, are not written atomically: `CheckpointHook` writes them as usual. The shipped configs contain
    `default_hooks=dict(checkpoint=dict(type='mmvmamba.engine.hooks.atomic_checkpoint.AtomicCheckpointHook'))`.
    """

    _is_local = False

    def before_train(self, runner: Runner) -> None:
        super().before_train(runner)
        self.outdated: list[Path] = []  # removed after the next checkpoint is complete
        self._is_local = type(self.file_backend) is LocalBackend
        if self._is_local:
            self.file_backend = _DeferredRemoval(self.outdated)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        with self._saving_atomically(runner) as proxy:
            super().after_train_iter(proxy, batch_idx, data_batch, outputs)

    def after_train_epoch(self, runner: Runner) -> None:
        with self._saving_atomically(runner) as proxy:
            super().after_train_epoch(proxy)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float]) -> None:
        with self._saving_atomically(runner) as proxy:
            super().after_val_epoch(proxy, metrics)

    @contextmanager
    def _saving_atomically(self, runner: Runner) -> Iterator[Any]:
        """Gives `CheckpointHook` a proxy of the runner that saves atomically, and finishes the save afterwards."""
        if not self._is_local:
            yield runner
            return
        proxy = _AtomicSavingRunner(runner, self.outdated)
        yield proxy
        proxy.finish()


class _DeferredRemoval(LocalBackend):
    """LocalBackend whose `remove` does not delete the file, but adds its path to `outdated`."""

    def __init__(self, outdated: list[Path]):
        self.outdated = outdated

    def remove(self, filepath: str | Path) -> None:
        self.outdated.append(Path(filepath).absolute())


class _AtomicSavingRunner:
    """Proxy of a runner for `CheckpointHook`.

    Its `save_checkpoint` saves atomically. Its `work_dir` is a temporary folder, to which `CheckpointHook` writes
    `last_checkpoint`. All other attributes are those of the runner.
    """

    def __init__(self, runner: Runner, outdated: list[Path]):
        self._runner = runner
        self._outdated = outdated
        self._staging = Path(runner.work_dir, '.saving')
        self._has_saved = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runner, name)

    @property
    def work_dir(self) -> str:
        """A temporary folder. `CheckpointHook` writes only `last_checkpoint` to it, which `finish` moves."""
        self._staging.mkdir(exist_ok=True)
        return str(self._staging)

    def save_checkpoint(self, out_dir: str, filename: str, *args, **kwargs) -> None:
        """Saves like `Runner.save_checkpoint`, but under a temporary name until the file is complete.

        Raises:
            OSError: the checkpoint cannot be written. `filename` of the exception is the final path.
        """
        path = Path(out_dir, filename).absolute()
        part = path.with_name(f'{filename}.part')
        try:
            self._runner.save_checkpoint(out_dir, part.name, *args, **kwargs)
            barrier()  # strategies such as sharded FSDP write one file per rank, in a folder
            if is_main_process():
                _replace(part, path)
        except OSError as error:
            with suppress(OSError):
                part.unlink(missing_ok=True)  # frees the space of the incomplete file
            error.filename = str(path)  # a failed write does not name the file
            raise
        self._has_saved = True
        while path in self._outdated:  # written again under the name of an outdated file: keep the new one
            self._outdated.remove(path)

    def finish(self) -> None:
        """Replaces `last_checkpoint` and removes the outdated checkpoints, if a checkpoint was saved."""
        if not self._has_saved or not is_main_process():
            return
        if (self._staging / 'last_checkpoint').exists():
            _replace(self._staging / 'last_checkpoint', Path(self._runner.work_dir, 'last_checkpoint'))
        if self._staging.exists():
            self._staging.rmdir()
        for path in self._outdated:
            path.unlink(missing_ok=True)
        self._outdated.clear()


def _replace(part: Path, path: Path) -> None:
    """Renames `part` to `path`: a file after it is written to the disk (fsync), a folder instead of an existing one."""
    if part.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with part.open('rb') as file:
            os.fsync(file.fileno())
    part.replace(path)
