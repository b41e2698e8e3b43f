"""Checkpoints that a killed run had replaced, but not yet removed."""

import re
from pathlib import Path

from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook, Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from .whole_files import WholeFileBackend

KEY = 'replaced_checkpoints'  # in `meta` of a checkpoint: names of the files that it replaces


@HOOKS.register_module()
class StaleCheckpointsHook(Hook):
    """With `max_keep_ckpts`, makes the first save after `--resume` remove what the killed run left.

    An old checkpoint is removed after the new one is complete; a run killed in between leaves both. Each checkpoint
    therefore names the files that it replaces. Only these are removed, if they are in the folder of the checkpoint that
    the run resumes from and have a name that `CheckpointHook` gives.
    """

    priority = 'LOWEST'  # after CheckpointHook, which chooses its folder in `before_train`

    def __init__(self):
        self._names: list[str] = []

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        checkpoint['meta'][KEY] = sorted({path.name for path in WholeFileBackend.outdated})

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        if runner._resume:
            names = checkpoint['meta'].get(KEY)
            self._names = [name for name in names if isinstance(name, str)] if isinstance(names, list) else []

    def before_train(self, runner: Runner) -> None:
        names, self._names = self._names, []
        saving = next((hook for hook in runner.hooks if isinstance(hook, CheckpointHook)), None)
        if not names or not is_main_process() or saving is None or saving.max_keep_ckpts <= 0:
            return
        folder, resumed = Path(saving.out_dir), Path(runner._load_from)
        if not resumed.exists() or resumed.resolve().parent != folder.resolve():
            return
        pattern = re.compile(re.escape(saving.filename_tmpl).replace(re.escape('{}'), r'(\d+)'))
        kept = {saving.filename_tmpl.format(step) for step in saving.keep_ckpt_ids} | {resumed.name}
        for name in names:
            if pattern.fullmatch(name) and name not in kept and (folder / name).is_file():
                saving.file_backend.remove(str(folder / name))  # at the next save, see WholeFileBackend
