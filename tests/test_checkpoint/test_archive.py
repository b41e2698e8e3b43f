"""A file that is not what was written is named, not loaded."""

import random
import struct
import zipfile

import pytest
import torch

from mmvmamba.checkpoint import CheckpointError, read_checkpoint
from mmvmamba.checkpoint.archive import SMALL, _long_values

from .attacks import rewrite, write
from .cost import Cost


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
        (lambda path: zipfile.ZipFile(path, 'a').writestr('file/data.pkl', b''), 'records of one name'),
        (lambda path: rewrite(path, lambda n, c: None if n.endswith('data/0') else (n, c)), 'truncated or damaged'),
    ],
    ids=['compressed', 'twice', 'lost tensor'],
)
@pytest.mark.filterwarnings('ignore:Duplicate name')
def test_zip_that_torch_does_not_write(file, change, message):
    change(file)
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(file)


def test_records_that_nothing_refers_to_take_no_memory(file):
    rewrite(file, lambda name, content: (name, bytes(2**28)) if name.endswith('version') else (name, content))
    with Cost() as cost:
        assert read_checkpoint(file)['state_dict']['weight'].shape == (100, 100)
    assert cost.memory < 2**26


def test_checksums_of_records_that_nothing_refers_to_are_compared(file):
    content = file.read_bytes()
    place = content.index(b'3\n', content.index(b'/version'))
    file.write_bytes(content[:place] + b'4' + content[place + 1 :])
    with pytest.raises(CheckpointError, match='wrong CRC of file/version'):
        read_checkpoint(file)


def test_large_file_is_read_by_several_threads(tmp_path):
    """Above the size that one thread reads, with a damaged record in the share of each thread."""
    weights = {f'w{number}': torch.randn(1000, 300) for number in range(8)}
    path = write(tmp_path / 'file.pth', weights)
    assert path.stat().st_size > SMALL
    read = read_checkpoint(path)['state_dict']
    assert all(torch.equal(read[name], tensor) for name, tensor in weights.items())
    content, places = path.read_bytes(), list(tensor_bytes(path))
    for place in places[:: len(places) // 8]:
        damaged = bytearray(content)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match='wrong CRC'):
            read_checkpoint(path)


def test_zip64_records(tmp_path):
    """`torch.save` writes a ZIP64 end into each file; offsets beyond 4 GiB need its fields in the directory, too."""
    extra = struct.pack('<2HQ', 1, 8, 77) + struct.pack('<2HQ', 9, 8, 1)
    assert _long_values(extra, 5, 5, 2**32 - 1) == [5, 5, 77]
    assert _long_values(struct.pack('<2H2Q', 1, 16, 7, 8), 2**32 - 1, 2**32 - 1, 5) == [7, 8, 5]
    assert _long_values(struct.pack('<2HI', 1, 8, 7), 2**32 - 1) == [2**32 - 1]
