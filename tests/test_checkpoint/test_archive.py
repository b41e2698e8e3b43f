"""A file that is not what was written is named, not loaded."""

import hashlib
import random
import zipfile

import pytest
import torch

from mmvmamba.checkpoint import CheckpointError, read_checkpoint

from .attacks import rewrite, write


@pytest.fixture
def file(tmp_path):
    torch.manual_seed(0)
    return write(tmp_path / 'file.pth', {'weight': torch.randn(100, 100), 'bias': torch.randn(100)})


def tensor_bytes(path):
    """Where the numbers of the tensors are in the file."""
    with zipfile.ZipFile(path) as archive:
        records = [info for info in archive.infolist() if '/data/' in info.filename]
    content = path.read_bytes()
    for info in records:
        name = int.from_bytes(content[info.header_offset + 26 : info.header_offset + 28], 'little')
        extra = int.from_bytes(content[info.header_offset + 28 : info.header_offset + 30], 'little')
        start = info.header_offset + 30 + name + extra
        yield from range(start, start + info.file_size)


def test_flipped_bits(file):
    content, places = file.read_bytes(), list(tensor_bytes(file))
    assert len(places) == 4 * 100 * 101
    chance = random.Random(0)
    for place in chance.sample(places, 40):
        damaged = bytearray(content)
        damaged[place] ^= 1 << chance.randrange(8)
        file.write_bytes(damaged)
        with pytest.raises(CheckpointError, match='truncated or damaged .*CRC'):
            read_checkpoint(file)


def test_file_without_checksums(file):
    if not hasattr(torch.serialization, 'set_crc32_options'):
        pytest.skip('this torch always writes them')
    torch.serialization.set_crc32_options(False)
    try:
        write(file, {'weight': torch.ones(3)})
    finally:
        torch.serialization.set_crc32_options(True)
    assert read_checkpoint(file)['state_dict']['weight'].tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    'change, message',
    [
        (lambda path: rewrite(path, lambda *record: record, zipfile.ZIP_DEFLATED), 'compressed records'),
        (
            lambda path: rewrite(path, lambda n, c: (n, b'3' * 2**21) if n.endswith('version') else (n, c)),
            'a record of a size',
        ),
        (lambda path: zipfile.ZipFile(path, 'a').writestr('file/data.pkl', b''), 'records that overlap'),
        (lambda path: rewrite(path, lambda n, c: None if n.endswith('data/0') else (n, c)), 'truncated or damaged'),
    ],
    ids=['compressed', 'large version', 'twice', 'lost tensor'],
)
@pytest.mark.filterwarnings('ignore:Duplicate name')
def test_zip_that_torch_does_not_write(file, change, message):
    change(file)
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(file)


def test_hash_in_the_name(file, tmp_path):
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    named = file.rename(tmp_path / f'vmamba_20231203-{digest[:8]}.pth')
    assert 'state_dict' in read_checkpoint(named)
    wrong = named.rename(tmp_path / 'vmamba-0123abcd.pth')
    with pytest.raises(CheckpointError, match=rf'0123abcd\.pth is damaged or was changed.*begins with {digest[:8]}'):
        read_checkpoint(wrong)
    dated = wrong.rename(tmp_path / 'mine-20261125.pth')
    assert 'state_dict' in read_checkpoint(dated)
