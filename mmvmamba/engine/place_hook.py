"""Official files as `load_from` of a Runner."""

from collections import OrderedDict

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ..checkpoint import Match, match_state_dict, unwrap_model, unwrap_state_dict


@HOOKS.register_module()
class PlaceOfficialNamesHook(Hook):
    """Gives the tensors of a checkpoint the names and shapes of the model, before mmengine and EMAHook load them.

    The tools of this package register it, so that a released classifier can be tested as an `ImageClassifier`, or
    start a detector. For other tools, add this module to `custom_imports` and the hook to `custom_hooks`.

    Args:
        found: what the model takes, where that is known already.
    """

    priority = 'VERY_HIGH'

    def __init__(self, found: Match | None = None):
        self.found = found

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        if runner._resume:  # this run's own file, whose averaged weights EMAHook exchanges by name
            return
        found, self.found = self.found, None
        found = found or match_state_dict(unwrap_model(runner.model), unwrap_state_dict(checkpoint))
        checkpoint['state_dict'] = OrderedDict(found.tensors)
