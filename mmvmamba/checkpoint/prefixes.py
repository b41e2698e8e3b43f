"""Checkpoints whose keys all have a prefix that the model does not know, such as `encoder.` or `student.`."""

import json
import re
import shlex
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from torch import nn

from .remapping import find_backbone, remap_keys

# A prefix is recognised if at least this share of the model's keys follows it, because the checkpoint may belong to a
# model of another depth, and at least this number, because many modules have a weight and a bias.
SHARE = 0.5
LEAST = 10
_PREFIX = re.compile(r'(?:\w{1,40}\.){1,6}', re.ASCII)


def unknown_prefixes(model: nn.Module, keys: Iterable[str]) -> list[str]:
    """Finds the prefixes under which a checkpoint has the keys of a model, if it does not have them without a prefix.

    Args:
        model: a backbone, a model with a backbone, or any other model.
        keys: the keys of a checkpoint.

    Returns:
        The shortest such prefixes, for example `['student.', 'teacher.']`; usually empty.
    """
    keys = list(keys)
    if _share(model, keys) >= SHARE:
        return []
    starts = [found[0] for key in keys if (found := _PREFIX.match(key))]
    counts = Counter(start[: dot.end()] for start in starts for dot in re.finditer(r'\.', start))
    found = []
    for prefix in sorted(counts, key=len):
        if counts[prefix] >= max(LEAST, SHARE * _size(model)) and not prefix.startswith(tuple(found)):
            inner = [key.removeprefix(prefix) for key in keys if key.startswith(prefix)]
            if _share(model, inner) >= SHARE:
                found.append(prefix)
    return found


def prefix_advice(model: nn.Module, keys: Iterable[str], filename: str | Path = '') -> str | None:
    """Returns one sentence that names the prefix and how to load the checkpoint; None without such a prefix."""
    prefixes = unknown_prefixes(model, keys)
    if not prefixes:
        return None
    prefix, file = prefixes[0], str(filename) or 'FILE'
    program = (
        'import torch; from mmvmamba.checkpoint import read_checkpoint, unwrap_state_dict; '
        f'old = unwrap_state_dict(read_checkpoint({json.dumps(file)})); '
        f'torch.save({{k[{len(prefix)}:]: v for k, v in old.items() if k.startswith({json.dumps(prefix)})}}, "OUT.pth")'
    )
    return (
        f'{filename or "the file"} has the tensors of {type(model).__name__} under the prefix '
        f"{' and '.join(map(repr, prefixes))}: pass prefix='{prefix}' in the init_cfg of a backbone, or write a file "
        f'without the prefix: python -c {shlex.quote(program)}'
    )


def renaming_advice(model: nn.Module, found: str, expected: str) -> str:
    """`prefix_advice` for a backbone that mmengine or PyTorch loads, which do not pass the name of the file.

    Args:
        model: a backbone.
        found: the prefix in the checkpoint.
        expected: the prefix of the backbone in the loaded model, '' for a backbone alone.
    """
    load = (
        f'load_checkpoint(model, FILE, revise_keys=[({f"^{re.escape(found)}"!r}, {expected!r})]) of mmengine.runner'
        if expected
        else f'load_pretrained(model, FILE, prefix={found!r}) of mmvmamba.checkpoint'
    )
    instead = f' instead of {expected!r}' if expected else ''
    return (
        f'the file has the tensors of {type(model).__name__} under the prefix {found!r}{instead}: load it with {load}'
    )


def _share(model: nn.Module, keys: list[str]) -> float:
    """The share of the model's keys, or of its backbone's keys, that are among these keys."""
    backbone, prefix = find_backbone(model)
    remapped = set(remap_keys(model, keys).values())
    if backbone is None:
        return len(remapped.intersection(model.state_dict())) / _size(model)
    inner = {key.removeprefix(prefix) for key in remapped if key.startswith(prefix)}
    renamed = {backbone.rename_checkpoint_key(key) for key in inner}
    return len((inner | renamed).intersection(backbone.state_dict())) / _size(model)


def _size(model: nn.Module) -> int:
    backbone, _ = find_backbone(model)
    return max(1, len((backbone or model).state_dict()))
