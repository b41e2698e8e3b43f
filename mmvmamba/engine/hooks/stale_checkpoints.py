"""Removes checkpoints that a killed run had replaced, but not yet removed."""

import re
from pathlib import Path

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from .atomic_checkpoint import AtomicCheckpointHook

KEY = 'replaced_checkpoints'  # in `meta` of a checkpoint: names of the files that it replaces


@HOOKS.register_module()
class StaleCheckpointsHook(Hook):
    """With `max_keep_ckpts`, makes the first save after `--resume` remove what the killed run left.

    `AtomicCheckpointHook` removes an old checkpoint after the new one is complete; a run killed in between leaves both.
    Each checkpoint therefore names the files that it replaces. Only these are removed, if they are in the folder of the
    checkpoint that the run resumes from and have a name that `CheckpointHook` gives. Does nothing if the config has no
    `AtomicCheckpointHook`.
    """

    priority = 'LOWEST'  # after AtomicCheckpointHook, which chooses its folder in `before_train`

    def __init__(self):
        self._names: list[str] = []

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        saving = _saving_hook(runner)
        if saving is not None:
            checkpoint['meta'][KEY] = sorted({path.name for path in saving.outdated})

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        if runner._resume:
            names = checkpoint['meta'].get(KEY)
            self._names = [name for name in names if isinstance(name, str)] if isinstance(names, list) else []

    def before_train(self, runner: Runner) -> None:
        names, self._names = self._names, []
        saving = _saving_hook(runner)
        if not names or not is_main_process() or saving is None or saving.max_keep_ckpts <= 0:
            return
        folder, resumed = Path(saving.out_dir), Path(str(runner._load_from))
        if not resumed.exists() or resumed.resolve().parent != folder.resolve():
            return
        pattern = re.compile(re.escape(saving.filename_tmpl).replace(re.escape('{}'), r'(\d+)'))
        kept = {saving.filename_tmpl.format(step) for step in saving.keep_ckpt_ids} | {resumed.name}
        for name in names:
            if pattern.fullmatch(name) and name not in kept and (folder / name).is_file():
                saving.file_backend.remove(folder / name)  # at the next save


def _saving_hook(runner: Runner) -> AtomicCheckpointHook | None:
    return next((hook for hook in runner.hooks if isinstance(hook, AtomicCheckpointHook)), None)
