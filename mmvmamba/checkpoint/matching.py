"""Which tensors of a file a model takes, and a report of it.

A backbone that knows the names in released files answers for itself (see `mmvmamba.models.backbone.Backbone`):
`own_name`, `adapt`, `absent_in_classifier`, `absent_in_backbone` and `misfit` are all that is asked of it.
"""

import copy
import re
from collections import Counter, OrderedDict
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from .errors import LONGEST_NAME, CheckpointError, listing, one_line
from .placing import backbone_of, place
from .prefixes import prefix_advice
from .values import INTEGERS, WEIGHTS, check_values


@dataclass
class Match:
    """Which tensor of a file goes where in a model: names in the model, but for `left`."""

    taken: dict[str, Tensor] = field(default_factory=OrderedDict)  # as the model needs them
    sources: dict[str, str] = field(default_factory=dict)  # names in the file
    resized: list[str] = field(default_factory=list)
    fresh: list[str] = field(default_factory=list)  # stay as the model has them, as the file comes from a classifier
    missing: list[str] = field(default_factory=list)
    misshapen: list[str] = field(default_factory=list)  # with both shapes
    mistyped: list[str] = field(default_factory=list)  # with the reason
    left: list[str] = field(default_factory=list)  # names in the file

    def load_into(self, model: nn.Module) -> None:
        tensors = OrderedDict(self.taken)
        tensors._metadata = model.state_dict()._metadata  # they are what the present versions of the modules expect
        model.load_state_dict(tensors, strict=False)

    def differences(self, most: int | None = None) -> str:
        """What does not fit, in one line; '' if all does."""
        kinds = {
            'missing in the file': [*self.fresh, *self.missing],
            'of another shape': self.misshapen,
            'of another type': self.mistyped,
            'unknown to the model': self.left,
        }
        return '; '.join(f'{len(names)} {kind}: {listing(names, most)}' for kind, names in kinds.items() if names)

    def report(self) -> str:
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


def match(model: nn.Module, state_dict: dict[str, Tensor], filename: str | Path = '') -> Match:
    """Finds out which tensors a model would take.

    Args:
        model: not changed.
        state_dict: from `unwrap_state_dict`.
        filename: only named in errors.

    Raises:
        CheckpointError: the backbone or the model refuses the file, or there is NaN or Inf in what it would take.
    """
    try:
        return _match(model, state_dict)
    except CheckpointError as error:
        if advice := prefix_advice(model, state_dict, filename):
            raise CheckpointError(advice) from error
        raise CheckpointError(f'{filename}: {error}') if filename else error from error


def _match(model: nn.Module, state_dict: dict[str, Tensor]) -> Match:
    metadata = getattr(state_dict, '_metadata', {})
    _refuse_nested(state_dict)
    backbone, prefix = backbone_of(model)
    places = place(model, state_dict)
    names = {place: name for name, place in places.items()}
    if len(names) < len(places):
        twice = [place for place, count in Counter(places.values()).items() if count > 1]
        raise CheckpointError(f'it has two tensors for {listing(twice)}')

    found = Match()
    placed = OrderedDict((place, state_dict[name]) for place, name in names.items())
    if backbone is not None:
        part = {place[len(prefix) :]: tensor for place, tensor in placed.items() if place.startswith(prefix)}
        inner = fit(backbone, part)
        found.taken.update((prefix + name, tensor) for name, tensor in inner.taken.items())
        found.sources.update((prefix + name, names[prefix + source]) for name, source in inner.sources.items())
        found.resized = [prefix + name for name in inner.resized]
        found.fresh = [prefix + name for name in inner.fresh]
    if backbone is not model:
        _Rehearsal(placed, metadata, backbone).run(model, found, names)

    check_values(model, found.taken, found.sources)
    used = {*found.sources.values(), *(names.get(entry.split()[0]) for entry in found.misshapen + found.mistyped)}
    found.left = [name for name in state_dict if name not in used]
    return found


def fit(backbone: nn.Module, tensors: dict[str, Tensor]) -> Match:
    """Gives the tensors of a file the names and shapes of a backbone; both stay as they are.

    Args:
        backbone: as described at the top of this file.
        tensors: under names without prefix, of any generation.

    Raises:
        CheckpointError: one is missing, unknown, or of another shape or type.
    """
    _refuse_nested(tensors)
    own, adapted = backbone.state_dict(), backbone.adapt(tensors)
    found, surplus = Match(), []
    for source, tensor in adapted.items():
        name = source if source in own else backbone.own_name(source)
        if name not in own or name in found.sources:
            surplus.append(source)
            continue
        found.sources[name] = source
        value = reshaped(tensor, own[name].shape)
        if reason := unsuited(tensor, own[name].dtype):
            found.mistyped.append(f'{source} {reason}')
        elif value is None:
            found.misshapen.append(f'{source} {tuple(tensor.shape)} (here {tuple(own[name].shape)})')
        else:
            found.taken[name] = value
            if tensor is not tensors[source]:
                found.resized.append(name)
    found.missing = [name for name in own if name not in found.sources]
    fresh = [name for name in own if name.startswith(backbone.absent_in_classifier)]
    if set(fresh) <= set(found.missing):
        found.fresh = fresh
        found.missing = [name for name in found.missing if name not in fresh]
    found.left = [name for name in surplus if name.startswith(backbone.absent_in_backbone)]
    problems = {
        'lacks': found.missing,
        'holds, but the model does not,': [name for name in surplus if name not in found.left],
        'has another shape for': found.misshapen,
        'has another type for': found.mistyped,
    }
    if wrong := [f'it {what} {listing(names)}' for what, names in problems.items() if names]:
        raise CheckpointError(f'{backbone.misfit(tensors)}: {"; ".join(wrong)}.')
    if found.left:
        print_log(f'{type(backbone).__name__} leaves out of the checkpoint: {listing(found.left)}.', logger='current')
    return found


def _refuse_nested(tensors: dict[str, Tensor]) -> None:
    # a nested tensor has no shape to compare
    if nested := [name for name, tensor in tensors.items() if tensor.is_nested]:
        raise CheckpointError(f'it holds nested tensors, which are not weights: {listing(nested)}')


def reshaped(tensor: Tensor, shape: torch.Size) -> Tensor | None:
    """The tensor in this shape, if it differs only in grouping or trailing ones (a 1x1 convolution), else None."""
    if tensor.shape == shape:
        return tensor
    ungrouped = (shape[0] * shape[1], *shape[2:]) if len(shape) > 2 else None
    trimmed = tuple(tensor.shape)
    while len(trimmed) > len(shape) and trimmed[-1] == 1:
        trimmed = trimmed[:-1]
    return tensor.reshape(shape) if trimmed in (tuple(shape), ungrouped) else None


def unsuited(tensor: Tensor, dtype: torch.dtype) -> str | None:
    """Why this cannot be the value of a parameter or buffer of this type, whatever its shape; None if it can."""
    if tensor.is_quantized or tensor.layout != torch.strided:
        return f'is quantised ({tensor.dtype})' if tensor.is_quantized else 'is sparse'
    if tensor.dtype == dtype or any(tensor.dtype in kind and dtype in kind for kind in (WEIGHTS, INTEGERS)):
        return None
    return f'is {tensor.dtype} (here {dtype})'


class _Rehearsal:
    """Loads into a copy of a model that has no memory, all but its backbone, and sees what each module does.

    The load hooks of other libraries run, so renaming is theirs. A tensor is known again by being the same object.
    """

    def __init__(self, placed: dict[str, Tensor], metadata: dict, backbone: nn.Module | None):
        self.tensors = OrderedDict((place, Tensor.detach(tensor)) for place, tensor in placed.items())
        self.origin = {id(tensor): place for place, tensor in self.tensors.items()}
        self.metadata = metadata
        self.backbone = backbone

    def run(self, model: nn.Module, found: Match, names: dict[str, str]) -> None:
        self.found, self.names, errors = found, names, []
        stage = _blueprint(model)
        if self.backbone is not None:
            stage.backbone = None
        self._load(stage, '', dict(self.tensors), errors)
        found.missing = [name for name in found.missing if not is_counter(name)]
        found.fresh = [name for name in found.fresh if not is_counter(name)]
        known = [entry.split()[0] for entry in found.misshapen + found.mistyped]
        if others := [error for error in errors if not any(name in error for name in known)]:
            raise CheckpointError(' '.join(others[0].split())[:300])

    def _load(self, module: nn.Module, prefix: str, state_dict: dict[str, Tensor], errors: list[str]) -> None:
        own = dict(chain(module._parameters.items(), module._buffers.items()))
        before = list(state_dict)
        # assigned, not copied: the copy has no memory
        versions = {**self.metadata.get(prefix[:-1], {}), 'assign_to_params_buffers': True}
        module._load_from_state_dict(state_dict, prefix, versions, True, self.found.missing, [], errors)
        there = {self.origin.get(id(tensor)) for tensor in state_dict.values()}
        vanished = [name for name in before if name not in state_dict and name not in there]
        for name, tensor in own.items():
            persistent = tensor is not None and name not in module._non_persistent_buffers_set
            if persistent and prefix + name in state_dict:
                self._note(prefix + name, state_dict[prefix + name], tensor, vanished)
        for name, child in module.named_children():
            inner = {key: value for key, value in state_dict.items() if key.startswith(f'{prefix}{name}.')}
            self._load(child, f'{prefix}{name}.', inner, errors)

    def _note(self, name: str, tensor: Tensor, own: Tensor, vanished: list[str]) -> None:
        place = self.origin.get(id(tensor))
        if place is None:  # a hook made it: of what was there under this name, of what it took away, or of nothing
            place = name if name in self.names else vanished.pop() if vanished else None
            if place is None:
                self.found.fresh.append(name)
                return
            self.found.resized.append(name)
        if own.dim() == 0 and tensor.shape == (1,):
            tensor = tensor[0]
        if reason := unsuited(tensor, own.dtype):
            self.found.mistyped.append(f'{name} {reason}')
        elif tensor.shape != own.shape:
            shapes = (', '.join(map(str, each.shape)) or 'scalar' for each in (tensor, own))
            self.found.misshapen.append('{} (file {}, model {})'.format(name, *shapes))
        else:
            self.found.taken[name], self.found.sources[name] = tensor, self.names[place]


def _blueprint(model: nn.Module) -> nn.Module:
    """A copy of the model whose parameters and buffers have shapes but no values."""
    memo = {}
    for tensor in chain(model.parameters(), model.buffers()):
        empty = torch.empty_like(tensor, device='meta')
        memo[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty
    return copy.deepcopy(model, memo)


def is_counter(name: str) -> bool:
    """Whether this is the counter that old BatchNorm files lack and that changes no result: mmengine ignores it too."""
    return name.endswith('num_batches_tracked')


def _pattern(name: str) -> str:
    """One row of a table for all blocks."""
    return one_line(re.sub(r'((?:layers|blocks)\.)\d+', r'\1*', name), LONGEST_NAME)
