"""Checkpoint files: read as data, judged whole, loaded or refused. Nothing here knows a model by name."""

from .errors import CheckpointError
from .loading import load_checked, load_pretrained, match_checked, unwrap_model
from .matching import Match, fit, match
from .reading import read_checkpoint, trust_checkpoints, unwrap_state_dict

__all__ = [
    'CheckpointError',
    'Match',
    'fit',
    'load_checked',
    'load_pretrained',
    'match',
    'match_checked',
    'read_checkpoint',
    'trust_checkpoints',
    'unwrap_model',
    'unwrap_state_dict',
]
