"""Tests that `--resume` finds the newest checkpoint that is not damaged."""

import pytest
import torch

from mmvmamba.engine.errors import LaunchError
from mmvmamba.engine.newest_checkpoint import newest_complete_checkpoint, path_in_last_checkpoint_file


@pytest.fixture
def folder(tmp_path):
    for number in (2, 4, 10):
        torch.save({'state_dict': {'weight': torch.ones(100)}}, tmp_path / f'iter_{number}.pth')
    return tmp_path


@pytest.mark.parametrize('content', [b'', b'\x80\x04', None], ids=['empty', 'other', 'cut'])
def test_a_damaged_newest_checkpoint_is_skipped(folder, content):
    newest = folder / 'iter_10.pth'
    assert newest_complete_checkpoint(folder) == newest
    newest.write_bytes(newest.read_bytes()[:300] if content is None else content)
    assert newest_complete_checkpoint(folder) == folder / 'iter_4.pth'
    for number in (2, 4):
        (folder / f'iter_{number}.pth').write_bytes(b'')
    with pytest.raises(LaunchError, match='all 3 checkpoints in .* are damaged'):
        newest_complete_checkpoint(folder)


@pytest.mark.parametrize('content', ['', '\x80\x04', 'gone/iter_3.pth', 'relative.pth', '\0'])
def test_a_last_checkpoint_file_that_names_no_file_is_ignored(tmp_path, content):
    (tmp_path / 'last_checkpoint').write_text(content, encoding='latin-1')
    assert path_in_last_checkpoint_file(tmp_path) is None
    assert path_in_last_checkpoint_file(tmp_path / 'none') is None
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'last_checkpoint'))
    assert path_in_last_checkpoint_file(tmp_path) == tmp_path / 'last_checkpoint'
