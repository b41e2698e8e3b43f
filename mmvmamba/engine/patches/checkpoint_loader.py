"""Replaces MMEngine's checkpoint loaders by the safe reader. Written for MMEngine 0.10."""

from typing import Any

from mmengine.runner import CheckpointLoader

from ...checkpoint import read_checkpoint, unwrap_state_dict
from ..training_state import sanitize_resume_state

# The model zoos of the libraries (torchvision://, open-mmlab://) are not replaced: they name a fixed list of files.
_SCHEMES = ['', 'http://', 'https://', 'hf://', 'pavi://', r'(\S+\:)?s3://', r'(\S+\:)?petrel://']


def install_checkpoint_loader(filename: str = '', checkpoint: dict | None = None) -> None:
    """Makes mmengine read checkpoints through `read_checkpoint`.

    mmengine's own loader unpickles every file from a URL, and every file that the safe reader rejects.

    Args:
        filename: of a checkpoint that has been read already.
        checkpoint: its content, which mmengine gets when it loads the file for the first time.
    """
    read = {filename: checkpoint} if checkpoint else {}

    def load_from_checked_file(filename: str, map_location: Any) -> dict:  # mmengine logs the end of this name
        checkpoint = read.pop(filename, None)
        if checkpoint is None:
            checkpoint = read_checkpoint(filename, map_location or 'cpu')
            sanitize_resume_state(checkpoint, None)
        if 'state_dict' not in checkpoint:
            checkpoint = {'state_dict': unwrap_state_dict(checkpoint, filename)}
        return checkpoint

    CheckpointLoader.register_scheme(_SCHEMES, load_from_checked_file, force=True)
