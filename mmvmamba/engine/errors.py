class LaunchError(RuntimeError):
    """Something that the user can put right before a run can start; the message is one sentence."""
