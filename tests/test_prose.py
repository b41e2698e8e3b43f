"""The prose linter of `make lint` reports unidiomatic English in text, and ignores code."""

import importlib.util
from pathlib import Path

import pytest

pytest.importorskip('proselint')


@pytest.fixture(scope='module')
def prose():
    spec = importlib.util.spec_from_file_location('prose', Path(__file__).parents[1] / '.ci/prose.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    'sentence',
    [
        'An annotation file that is none.',
        'What that is no released variant needs.',
        'A unit of which the maps are kept.',
        'One scan walks the map.',
        'The file name is believed.',
        'The log\nsays so.',
        'The commands run as they stand.',
        'Every recipe stands there.',
        'An output that nobody reads.',
        'Our network beside theirs.',
        '## Is it there?',
        'The the same word twice.',
    ],
)
def test_unidiomatic_english_is_reported(prose, sentence):
    [problem] = prose.problems_in('page.md', f'First line.\n\n{sentence}\n')
    assert problem.startswith('page.md:3:')


@pytest.mark.parametrize(
    'text',
    [
        'The log lists the tensors. If there are none, loading fails.',
        'Besides, `walk` and ``the `house` `` are code.',
        '```python\nwalk(beside)  # that is none\n```',
        'A [link](docs/room.md) and https://example.org/room/arrow.',
        '## Vim\n\nVim is a backbone.',
        '`walk` `walk`',
    ],
)
def test_plain_english_and_code_are_accepted(prose, text):
    assert not prose.problems_in('page.md', f'{text}\n')
