"""Messages are one printable line of bounded length, whatever a file or a user puts into them."""

import pytest

from mmvmamba.checkpoint import CheckpointError
from mmvmamba.checkpoint.errors import LONGEST_MESSAGE, listing
from mmvmamba.engine.errors import LaunchError, TrainingError


@pytest.mark.parametrize('kind', [CheckpointError, LaunchError, TrainingError])
@pytest.mark.parametrize(
    'text, printed',
    [
        ('two\nlines\r\n', r'two\nlines\r\n'),
        ('\x1b[31mred\x07\x9b', r'\x1b[31mred\x07\x9b'),
        ('\u2028\u2029\x85\v\f', r'\u2028\u2029\x85\x0b\x0c'),
        ('\u202efdp.exe', r'\u202efdp.exe'),
        ('\ud800', r'\ud800'),
        ('bäc 漢 😀 C:\\new', 'bäc 漢 😀 C:\\new'),
    ],
)
def test_invisible_characters_are_escaped(kind, text, printed):
    assert str(kind(text)) == printed
    assert str(kind(f'file: {kind(text)}')) == f'file: {printed}'
    assert str(kind(text)).encode()


@pytest.mark.parametrize('character', ['a', '\n', '漢', '\U000e0001'])
def test_long_messages_keep_their_beginning_and_end(character):
    message = str(CheckpointError(f'begin {character * 10**6} end'))
    assert len(message) <= LONGEST_MESSAGE
    assert message.startswith('begin ') and message.endswith(' end') and message.isprintable()


def test_long_names_leave_room_for_the_others():
    names = listing(['a' * 10**6, 'b\nc', 7, *map(str, range(20))])
    assert r', b\nc, (int), 0' in names and names.endswith(' and 13 more') and len(names) < 500
