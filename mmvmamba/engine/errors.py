class LaunchError(RuntimeError):
    """Something that the user can put right before a run can start; the message is one sentence."""


class TrainingError(RuntimeError):
    """A training that has to end; the message is one sentence."""
