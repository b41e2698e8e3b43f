"""Safe reading of checkpoints, matching of keys and shapes, and loading. Independent of specific models."""

from .checkpoint_spec import CheckpointSpec
from .errors import CheckpointError
from .loading import load_checked, load_pretrained, match_checked, unwrap_model
from .match import Match
from .matching import convert_backbone_keys, match_state_dict
from .reading import read_checkpoint, trust_checkpoints, unwrap_state_dict

__all__ = [
    'CheckpointError',
    'CheckpointSpec',
    'Match',
    'convert_backbone_keys',
    'load_checked',
    'load_pretrained',
    'match_checked',
    'match_state_dict',
    'read_checkpoint',
    'trust_checkpoints',
    'unwrap_model',
    'unwrap_state_dict',
]
