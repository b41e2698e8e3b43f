"""Loads official checkpoints that a config or command line names in `load_from`."""

from collections import OrderedDict

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ...checkpoint import Match, match_state_dict, unwrap_model, unwrap_state_dict


@HOOKS.register_module(name=['OfficialCheckpointHook', 'PlaceOfficialNamesHook'])
class OfficialCheckpointHook(Hook):
    """Renames and reshapes the tensors of a checkpoint to those of the model, before mmengine and EMAHook load them.

    A released classifier can then be tested as an `ImageClassifier`, or be the start of a detector. The tools of this
    package register the hook. For other tools, add it to the config:
    `custom_hooks = [dict(type='mmvmamba.engine.hooks.official_checkpoint.OfficialCheckpointHook')]`.

    Args:
        found: result of `match_checked` if the checkpoint has been compared with the model already.
    """

    priority = 'VERY_HIGH'

    def __init__(self, found: Match | None = None):
        self.found = found

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        if runner._resume:  # a checkpoint of this run, whose averaged weights EMAHook exchanges by name
            return
        found, self.found = self.found, None
        found = found or match_state_dict(unwrap_model(runner.model), unwrap_state_dict(checkpoint))
        checkpoint['state_dict'] = OrderedDict(found.tensors)


PlaceOfficialNamesHook = OfficialCheckpointHook  # its name before version 0.2.0
