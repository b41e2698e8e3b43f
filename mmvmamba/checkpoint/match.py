"""The result of matching a checkpoint with a model."""

import re
from collections import Counter, OrderedDict
from dataclasses import dataclass, field

from torch import Tensor, nn

from .errors import LONGEST_NAME, listing, one_line


@dataclass
class Match:
    """Assigns the tensors of a checkpoint to the parameters and buffers of a model.

    All keys are those of the model, except for `unexpected` and the values of `sources`.

    Attributes:
        tensors: the tensors to load, in the shapes of the model.
        sources: the keys of these tensors in the checkpoint.
        resized: keys of tensors that differ from those in the checkpoint.
        kept: keys that the checkpoint of a classifier lacks, or that load hooks create; the model keeps its values.
        missing: other keys that the checkpoint does not have.
        mismatched: the reasons why tensors with the right key cannot be loaded.
        unexpected: keys in the checkpoint that are not loaded.
    """

    tensors: OrderedDict[str, Tensor] = field(default_factory=OrderedDict)
    sources: dict[str, str] = field(default_factory=dict)
    resized: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    mismatched: dict[str, str] = field(default_factory=dict)
    unexpected: list[str] = field(default_factory=list)

    def load_into(self, model: nn.Module) -> None:
        tensors = OrderedDict(self.tensors)
        # the tensors have the keys and shapes that the current versions of the modules expect
        vars(tensors)['_metadata'] = getattr(model.state_dict(), '_metadata', None)
        model.load_state_dict(tensors, strict=False)

    def differences(self, most: int | None = None) -> str:
        """Lists what does not match, in one line; '' if everything does."""
        kinds = {
            'missing': [*self.kept, *self.missing],
            'mismatched': describe_mismatches(self.mismatched),
            'unexpected': self.unexpected,
        }
        return '; '.join(f'{len(keys)} {kind}: {listing(keys, most)}' for kind, keys in kinds.items() if keys)

    def report(self) -> str:
        """Counts the tensors of each kind, followed by a table of those that were not loaded unchanged."""
        rows = Counter()
        for key, source in self.sources.items():
            # the keys of a backbone alone and in a model differ only in the prefix
            same = f'.{key}'.endswith(f'.{source}') or f'.{source}'.endswith(f'.{key}')
            kind = 'resized' if key in self.resized else 'unchanged' if same else 'renamed'
            rows[kind, _pattern(source), _pattern(key)] += 1
        rows.update(('unexpected', _pattern(key), '') for key in self.unexpected)
        rows.update(('randomly initialised', '', _pattern(key)) for key in self.kept)

        counts = dict.fromkeys(('unchanged', 'renamed', 'resized', 'unexpected', 'randomly initialised'), 0)
        for (kind, _, _), count in rows.items():
            counts[kind] += count
        lines = [', '.join(f'{count} {kind}' for kind, count in counts.items())]
        table = [(kind, str(count), old, new) for (kind, old, new), count in rows.items() if kind != 'unchanged']
        if table:
            table.insert(0, ('', 'tensors', 'in the file', 'in the model'))
            widths = [max(map(len, column)) for column in zip(*table)]
            lines += ['  '.join(map(str.ljust, row, widths)).rstrip() for row in table]
        return '\n'.join(lines)


def describe_mismatches(mismatched: dict[str, str]) -> list[str]:
    return [f'{key} {reason}' for key, reason in mismatched.items()]


def _pattern(key: str) -> str:
    """Replaces the indices of layers and blocks, so that all blocks share a row of the table."""
    return one_line(re.sub(r'((?:layers|blocks)\.)\d+', r'\1*', key), LONGEST_NAME)
