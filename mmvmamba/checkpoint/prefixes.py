"""Files whose tensors all have a prefix that the model does not know, such as `encoder.` or `student.`."""

import json
import re
import shlex
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from torch import nn

from .placing import backbone_of, place

# A prefix is recognised if at least this share of the model's names follows it, since the file may be of another depth,
# and at least this number: many modules have a weight and a bias.
SHARE = 0.5
LEAST = 10
_PREFIX = re.compile(r'(?:\w{1,40}\.){1,6}', re.ASCII)


def unknown_prefixes(model: nn.Module, names: Iterable[str]) -> list[str]:
    """The prefixes under which a file has the names of a model, if it does not have them without a prefix.

    Args:
        model: a backbone, or a model that has one as `backbone`, or any other.
        names: names in the file.

    Returns:
        The shortest such prefixes, `['student.', 'teacher.']` for instance; usually none.
    """
    names = list(names)
    if _share(model, names) >= SHARE:
        return []
    starts = [found[0] for name in names if (found := _PREFIX.match(name))]
    counts = Counter(start[: dot.end()] for start in starts for dot in re.finditer(r'\.', start))
    found = []
    for prefix in sorted(counts, key=len):
        if counts[prefix] >= max(LEAST, SHARE * _size(model)) and not prefix.startswith(tuple(found)):
            inner = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
            if _share(model, inner) >= SHARE:
                found.append(prefix)
    return found


def prefix_advice(model: nn.Module, names: Iterable[str], filename: str | Path = '') -> str | None:
    """One sentence with the prefix of a file and how to load the file all the same; None if it has no such prefix."""
    prefixes = unknown_prefixes(model, names)
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
    """`prefix_advice` where mmengine or torch loads, and the name of the file is not known.

    Args:
        model: a backbone.
        found: prefix of the model's tensors in the file.
        expected: prefix under which they are loaded, '' for a model by itself.
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


def _share(model: nn.Module, names: list[str]) -> float:
    """The share of the model's tensors, those of its backbone if it has one of ours, that have these names."""
    backbone, prefix = backbone_of(model)
    placed = set(place(model, names).values())
    if backbone is None:
        return len(placed.intersection(model.state_dict())) / _size(model)
    inner = {name.removeprefix(prefix) for name in placed if name.startswith(prefix)}
    return len((inner | {backbone.own_name(name) for name in inner}).intersection(backbone.state_dict())) / _size(model)


def _size(model: nn.Module) -> int:
    backbone, _ = backbone_of(model)
    return max(1, len((backbone or model).state_dict()))
