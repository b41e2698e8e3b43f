"""Files that are made to harm: each is refused in one sentence, at a cost in proportion to its size."""

import json

import pytest

from mmvmamba.checkpoint import CheckpointError, read_checkpoint

from .cost import Cost, most_memory
from .hostile_files import HONEST, HOSTILE


@pytest.mark.parametrize('name', HOSTILE)
def test_hostile_file_is_refused_at_little_cost(name, tmp_path):
    path = tmp_path / 'file.pth'
    path.write_bytes(HOSTILE[name])
    with Cost() as cost, pytest.raises(CheckpointError, match=r'file\.pth') as error:
        read_checkpoint(path)
    message = str(error.value)
    assert len(message.splitlines()) == 1 and message.isprintable() and len(message) <= 2000
    assert cost.memory <= most_memory(len(HOSTILE[name]))


@pytest.mark.parametrize('name', HONEST)
def test_the_same_bytes_without_the_attack_are_read(name, tmp_path):
    path = tmp_path / 'file.pth'
    path.write_bytes(HONEST[name])
    content = read_checkpoint(path)
    assert content['w'].tolist() == ([0, 1, 2, 3] if name == 'legacy' else [1, 2, 3, 4])


def test_safetensors_header_is_limited(tmp_path):
    """300,000 tensors without a value: the library would take 400 MB for 20 MB."""
    pytest.importorskip('safetensors')
    tensors = {f't{number}': {'dtype': 'F32', 'shape': [0], 'data_offsets': [0, 0]} for number in range(300_000)}
    path = tmp_path / 'file.safetensors'
    for count in (300_000, 1000):
        header = json.dumps(dict(list(tensors.items())[:count])).encode()
        path.write_bytes(len(header).to_bytes(8, 'little') + header)
        if count == 1000:
            assert len(read_checkpoint(path)) == 1000
        else:
            with Cost() as cost, pytest.raises(CheckpointError, match='its header is far longer than its tensors need'):
                read_checkpoint(path)
            assert cost.memory <= most_memory(len(header))
