"""Which tensors of a file a model takes, and a report of it."""

import copy
import re
import warnings
from collections import Counter, OrderedDict
from dataclasses import dataclass, field
from itertools import chain

import torch
from torch import Tensor, nn

from .official import names_in
from .safe_loading import CheckpointError


def match(model, state_dict):
    """Finds out which tensors a model would take, by loading them into a copy of it that has no memory.

    All load hooks run, so renaming and strictness are those of the modules themselves.

    Args:
        model (nn.Module): not changed.
        state_dict (dict[str, Tensor]): from ``unwrap_state_dict``.

    Returns:
        Match: names, shapes and the tensors as the model needs them.

    Raises:
        CheckpointError: from a load hook, or NaN or Inf in a tensor that the model would take.
    """
    metadata = getattr(state_dict, '_metadata', {})
    state_dict = {name: tensor.contiguous() for name, tensor in state_dict.items()}  # so that reshaping makes a view
    places = names_in(model, state_dict)
    placed = OrderedDict((place, state_dict[name]) for name, place in places.items())
    found, errors, loaded = Match(), [], {}
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', message='for .*: copying from a non-meta parameter')
        _load_into(_blueprint(model), placed, metadata, '', found.missing, errors, loaded)
    found.missing = [name for name in found.missing if not name.endswith('num_batches_tracked')]
    found.misshapen = [_shape_difference(error) for error in errors]

    names = {place: name for name, place in places.items()}
    memory = {_memory(tensor): name for name, tensor in state_dict.items()}
    for name, tensor in loaded.items():
        source = names.get(name) or memory.get(_memory(tensor))
        if source is None or tensor.is_meta:  # a load hook filled in what the model has
            found.fresh.append(name)
            continue
        found.taken[name], found.sources[name] = tensor, source
        if _memory(tensor) != _memory(state_dict[source]):
            found.resized.append(name)
    found.fresh = [name for name in found.fresh if not name.endswith('num_batches_tracked')]
    spoilt = [found.sources[name] for name, tensor in found.taken.items() if not _is_finite(tensor)]
    if spoilt:
        raise CheckpointError(f'there is NaN or Inf in {listing(spoilt)}: the training went wrong, use another file')
    used = {*found.sources.values(), *(names.get(difference.split()[0]) for difference in found.misshapen)}
    found.left = [name for name in state_dict if name not in used]
    return found


@dataclass
class Match:
    """Which tensor of a file goes where in a model: names in the model, but for ``left``."""

    taken: dict[str, Tensor] = field(default_factory=OrderedDict)
    sources: dict[str, str] = field(default_factory=dict)  # names in the file
    resized: list[str] = field(default_factory=list)
    fresh: list[str] = field(default_factory=list)  # stay as the model has them, as the file comes from a classifier
    missing: list[str] = field(default_factory=list)
    misshapen: list[str] = field(default_factory=list)  # with both shapes
    left: list[str] = field(default_factory=list)  # names in the file

    def differences(self, most=None):
        """What does not fit, in one line; '' if all does."""
        kinds = {
            'missing in the file': [*self.fresh, *self.missing],
            'of another shape': self.misshapen,
            'unknown to the model': self.left,
        }
        return '; '.join(f'{len(names)} {kind}: {listing(names, most)}' for kind, names in kinds.items() if names)

    def report(self):
        """How many tensors were taken as they are, renamed, resized, left or not found, and a table of the others."""
        rows = Counter()
        for name, source in self.sources.items():
            # the same parameter of a backbone alone and of one in a model is not renamed
            same = f'.{name}'.endswith(f'.{source}') or f'.{source}'.endswith(f'.{name}')
            kind = 'resized' if name in self.resized else 'taken' if same else 'renamed'
            rows[kind, _pattern(source), _pattern(name)] += 1
        rows.update(('left', _pattern(name), '') for name in self.left)
        rows.update(('fresh', '', _pattern(name)) for name in self.fresh)

        counts = Counter()
        for (kind, _, _), count in rows.items():
            counts[kind] += count
        lines = [', '.join(f'{counts[kind]} {kind}' for kind in ('taken', 'renamed', 'resized', 'left', 'fresh'))]
        table = [(kind, str(count), old, new) for (kind, old, new), count in rows.items() if kind != 'taken']
        if table:
            table.insert(0, ('', 'tensors', 'in the file', 'in the model'))
            widths = [max(map(len, column)) for column in zip(*table)]
            lines += ['  '.join(map(str.ljust, row, widths)).rstrip() for row in table]
        return '\n'.join(lines)


def _blueprint(model):
    """A copy of the model whose parameters and buffers have shapes but no values."""
    memo = {}
    for tensor in chain(model.parameters(), model.buffers()):
        empty = torch.empty_like(tensor, device='meta')
        memo[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty
    return copy.deepcopy(model, memo)


def _load_into(module, state_dict, metadata, prefix, missing, errors, loaded):
    """``nn.Module.load_state_dict`` with its findings as lists; the public one stops at the first kind of them."""
    misshapen = []
    module._load_from_state_dict(state_dict, prefix, metadata.get(prefix[:-1], {}), True, missing, [], misshapen)
    errors += misshapen
    refused = {match[1] for match in map(_SHAPES.match, misshapen) if match}
    refused |= {prefix + name for name in module._non_persistent_buffers_set}
    for name in (prefix + name for name in chain(module._parameters, module._buffers)):
        if name in state_dict and name not in refused:
            loaded[name] = state_dict[name]
    for name, child in module.named_children():
        inner = OrderedDict((key, value) for key, value in state_dict.items() if key.startswith(f'{prefix}{name}.'))
        _load_into(child, inner, metadata, f'{prefix}{name}.', missing, errors, loaded)


_SHAPES = re.compile(r'size mismatch for (\S+): .*torch\.Size\(\[(.*?)\]\).*torch\.Size\(\[(.*?)\]\)')


def _shape_difference(error):
    match = _SHAPES.match(error)
    return f'{match[1]} (file {match[2] or "scalar"}, model {match[3] or "scalar"})' if match else error


def _is_finite(tensor):
    if not tensor.is_floating_point() or tensor.is_meta or tensor.numel() == 0:
        return True
    return torch.stack(tensor.aminmax()).isfinite().all().item()  # both are NaN if any number is


def _memory(tensor):
    return tensor.untyped_storage().data_ptr(), tensor.storage_offset(), tensor.numel()


def _pattern(name):
    """One row of a table for all blocks."""
    return re.sub(r'((?:layers|blocks)\.)\d+', r'\1*', name)


def listing(names, most=10):
    """The first names, and how many more there are."""
    names = list(map(str, names))
    more = f' and {len(names) - most} more' if most and len(names) > most else ''
    return ', '.join(names[:most]) + more
