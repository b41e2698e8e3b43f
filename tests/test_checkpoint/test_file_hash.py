"""The hash in the name of a file is compared with the file."""

import hashlib

import pytest
import torch

from mmvmamba.checkpoint import CheckpointError, read_checkpoint

from .attacks import write


def test_hash_in_the_name(tmp_path):
    file = write(tmp_path / 'file.pth', {'weight': torch.ones(1)})
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    named = file.rename(tmp_path / f'vmamba_20231203-{digest[:8]}.pth')
    assert 'state_dict' in read_checkpoint(named)
    wrong = named.rename(tmp_path / 'vmamba-0123abcd.pth')
    with pytest.raises(CheckpointError, match=rf'0123abcd\.pth is damaged or was changed.*starts with {digest[:8]}'):
        read_checkpoint(wrong)
    dated = wrong.rename(tmp_path / 'mine-20261125.pth')
    assert 'state_dict' in read_checkpoint(dated)
