"""What a file may make: data. Anything else is refused, and nothing of this process changes."""

import argparse
import threading

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer

from mmvmamba.checkpoint import CheckpointError, read_checkpoint, trust_checkpoints, unwrap_state_dict

from .attacks import CODE, MEMORY, Calls, write

WEIGHTS = {'weight': torch.ones(2)}


@pytest.fixture
def unchanged():
    methods, listed = dict(HistoryBuffer._statistics_methods), set(torch.serialization.get_safe_globals())
    yield
    assert HistoryBuffer._statistics_methods == methods
    assert set(torch.serialization.get_safe_globals()) == listed
    assert repr(np.arange(2.0)) == 'array([0., 1.])'


@pytest.mark.parametrize('name', [*MEMORY, *CODE])
def test_attack_is_refused(name, tmp_path, unchanged):
    path = write(tmp_path / 'file.pth', WEIGHTS, meta={'x': (MEMORY | CODE)[name]})
    with pytest.raises(CheckpointError, match=r'file\.pth (was refused|is not a PyTorch checkpoint)') as error:
        read_checkpoint(path)
    assert '\n' not in str(error.value)


def test_file_cannot_change_a_class(tmp_path, unchanged):
    """`HistoryBuffer.__setstate__` writes into the class; `dtype.__setstate__` into a type that the process shares."""
    flagged = Calls(np.dtype, 'f8', False, True, state=(3, '|', None, None, None, -1, -1, 63))
    buffer = HistoryBuffer([1.0], [1])
    buffer._statistics_methods = {'mean': HistoryBuffer.max, 'new': HistoryBuffer.min}
    content = read_checkpoint(write(tmp_path / 'file.pth', WEIGHTS, dtype=flagged, buffer=buffer))
    assert content['dtype'] == np.float64
    assert content['buffer'].statistics('mean') == 1
    assert vars(content['buffer']).keys() == vars(HistoryBuffer([1.0], [1])).keys()


def test_arrays_and_scalars_as_released_files_hold_them(tmp_path):
    values = [
        *(np.arange(6, dtype=kind).reshape(2, 3) for kind in ('u1', 'i8', 'f2', 'f4', 'f8', 'c16', '>f4', '>i2')),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.array([True, False]),
        np.array(['a', 'bäc']),
        np.array([b'a', b'bc']),
        np.empty((0, 3)),
        np.array(3.5),
        *(np.float64(0.5), np.int64(3), np.bool_(True), np.str_('word'), np.float32(1)),
    ]
    for value, read in zip(values, read_checkpoint(write(tmp_path / 'file.pth', WEIGHTS, values=values))['values']):
        assert type(read) is type(value)
        assert read.dtype == value.dtype
        assert np.array_equal(read, value)


def test_structures_keep_their_form(tmp_path):
    shared = [1, (2, {'three'})]
    shared.append(shared)
    namespace = argparse.Namespace(lr=1.0, sizes=(1, 2), inner=argparse.Namespace(a=shared))
    content = read_checkpoint(write(tmp_path / 'file.pth', WEIGHTS, first=shared, second=shared, args=namespace))
    assert content['first'] is content['second'] is content['first'][2] is content['args'].inner.a
    assert content['first'][:2] == [1, (2, {'three'})]
    assert content['args'].sizes == (1, 2)


def test_tensors_with_attributes_and_odd_versions(tmp_path):
    parameter, tensor = torch.nn.Parameter(torch.ones(2)), torch.ones(2)
    parameter.detach = tensor.detach = 'no method'
    tensor._is_sharded = True  # as FSDP leaves it
    for saved in (parameter, tensor):
        read = read_checkpoint(write(tmp_path / 'file.pth', {'weight': saved}))['state_dict']['weight']
        assert type(read) is torch.Tensor
        assert not read.__dict__
        assert read.detach().tolist() == [1, 1]

    weights = torch.nn.Linear(1, 1).state_dict()
    weights._metadata = {'': {'version': 'word'}}
    torch.save({'state_dict': weights}, tmp_path / 'file.pth')
    with pytest.raises(CheckpointError, match=r'the versions of its modules \(_metadata\) are no numbers'):
        unwrap_state_dict(read_checkpoint(tmp_path / 'file.pth'), 'file.pth')
    for keys in ({1: torch.ones(1)}, {None: torch.ones(1)}, {('a',): torch.ones(1)}, {b'a': torch.ones(1)}):
        with pytest.raises(CheckpointError, match='holds no weights'):
            unwrap_state_dict({'state_dict': keys})


def test_expanded_tensor_stays_small(tmp_path):
    """64 GiB in a file of 4 bytes: judged by its shape, never written out."""
    torch.save({'weight': torch.ones(1).expand(2**34)}, tmp_path / 'file.pth')
    assert unwrap_state_dict(read_checkpoint(tmp_path / 'file.pth'))['weight'].shape == (2**34,)


def test_threads(tmp_path, unchanged):
    """Trust is of the thread that said so, and many readers leave torch's list as it was."""
    bad = write(tmp_path / 'bad.pth', WEIGHTS, more=Calls(str, 7))
    good = write(tmp_path / 'good.pth', WEIGHTS, more=np.arange(3), args=argparse.Namespace(a=1))
    trusted, read, results = threading.Event(), threading.Event(), []

    def distrust():
        trusted.wait(10)
        try:
            read_checkpoint(bad)
        except CheckpointError:
            results.append('refused')
        read.set()

    other = threading.Thread(target=distrust)
    other.start()
    with trust_checkpoints():
        trusted.set()
        assert read.wait(10)
        assert read_checkpoint(bad)['more'] == '7'
    other.join()
    assert results == ['refused']

    readers = [
        threading.Thread(target=lambda: results.extend(len(read_checkpoint(good)) for _ in range(20))) for _ in range(4)
    ]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert results[1:] == [3] * 80
