"""What a file may make: data. Anything else is refused, and nothing of this process changes."""

import argparse
import threading
from collections import Counter, OrderedDict

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer

from mmvmamba.checkpoint import CheckpointError, read_checkpoint, trust_checkpoints, unwrap_state_dict
from mmvmamba.checkpoint.structure import DEEPEST

from .attacks import CODE, MEMORY, Calls, write
from .many_threads import race

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
    with pytest.raises(CheckpointError, match=r'file\.pth (was rejected|is not a PyTorch checkpoint)') as error:
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
        np.array([], dtype='U'),
        *(np.str_(''), np.bytes_(b'')),
        *(np.float64(0.5), np.int64(3), np.bool_(True), np.str_('word'), np.float32(1)),
    ]
    for value, read in zip(values, read_checkpoint(write(tmp_path / 'file.pth', WEIGHTS, values=values))['values']):
        assert type(read) is type(value)
        assert read.dtype == value.dtype
        assert np.array_equal(read, value)


def test_structures_keep_their_form(tmp_path):
    shared = [1, (2, {'three'})]
    namespace = argparse.Namespace(lr=1.0, sizes=(1, 2), inner=argparse.Namespace(a=shared))
    content = read_checkpoint(write(tmp_path / 'file.pth', WEIGHTS, first=shared, second=shared, args=namespace))
    assert content['first'] is content['second'] is content['args'].inner.a
    assert content['first'] == [1, (2, {'three'})]
    assert content['args'].sizes == (1, 2)


def test_structure_that_contains_itself_is_refused(tmp_path):
    """Optimizers and hooks would walk through it without end."""
    shared = [1]
    shared.append({'again': shared})
    with pytest.raises(CheckpointError, match='a structure that contains itself'):
        read_checkpoint(write(tmp_path / 'file.pth', WEIGHTS, shared=shared))


def test_nesting_is_limited(tmp_path):
    def nest(levels):
        return [nest(levels - 1)] if levels else 0

    assert read_checkpoint(write(tmp_path / 'file.pth', WEIGHTS, x=nest(DEEPEST - 1)))['x'] == nest(DEEPEST - 1)
    with pytest.raises(CheckpointError, match='more than 100 nested containers'):
        read_checkpoint(write(tmp_path / 'file.pth', WEIGHTS, x=nest(DEEPEST)))


def test_number_of_objects_is_limited_in_proportion_to_the_file(tmp_path):
    """A history of 400,000 numbers is fine, and more beside the tensors of a larger file."""
    history = [float(number) for number in range(400_000)]
    read = read_checkpoint(write(tmp_path / 'file.pth', WEIGHTS, history=history))['history']
    assert read == history
    with pytest.raises(CheckpointError, match='far more objects than a file of its size needs'):
        read_checkpoint(write(tmp_path / 'file.pth', WEIGHTS, history=history * 3))
    large = torch.zeros(2**24)
    assert read_checkpoint(write(tmp_path / 'file.pth', {'w': large}, history=history * 3))['history'] == history * 3


def test_values_of_every_kind(tmp_path):
    values = [
        *(None, True, False, 0, -1, 255, 65535, -(2**31), 2**40, -(2**100), 0.5, float('inf'), 1j),
        *('', 'wört\n', '\ud800', b'', b'a\xff', bytearray(), bytearray(b'a\xff')),
        *((), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), [], [1], [1, 2], {}, {'a': 1}, {1: 2, 0.5: 3, None: 4, b'x': 5}),
        *(set(), {1, 'a'}, OrderedDict(a=1), Counter([1, 1, 2]), OrderedDict()),
        *(torch.Size([2, 3]), torch.device('cpu'), torch.device('cuda', 1), torch.float16, torch.float8_e5m2),
    ]
    for zipped in (True, False):
        path = tmp_path / 'file.pth'
        torch.save({'values': values}, path, _use_new_zipfile_serialization=zipped)
        read = read_checkpoint(path)['values']
        assert read == values
        assert list(map(type, read)) == list(map(type, values))


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
    with pytest.raises(CheckpointError, match=r'the versions of its modules, _metadata, are not numbers'):
        unwrap_state_dict(read_checkpoint(tmp_path / 'file.pth'), 'file.pth')
    for keys in ({1: torch.ones(1)}, {None: torch.ones(1)}, {('a',): torch.ones(1)}, {b'a': torch.ones(1)}):
        with pytest.raises(CheckpointError, match='has no weights'):
            unwrap_state_dict({'state_dict': keys})


def test_expanded_tensor_is_measured_by_its_shape(tmp_path):
    """One value that stands for a model of 1 GiB is read as it was saved; one for 64 GiB is refused."""
    torch.save({'weight': torch.ones(1).expand(2**28)}, tmp_path / 'file.pth')
    read = unwrap_state_dict(read_checkpoint(tmp_path / 'file.pth'))['weight']
    assert read.shape == (2**28,) and read.stride() == (0,)
    torch.save({'weight': torch.ones(1).expand(2**34)}, tmp_path / 'file.pth')
    with pytest.raises(CheckpointError, match='tensors that are far larger than the file when they are written out'):
        read_checkpoint(tmp_path / 'file.pth')


@pytest.fixture
def safe_str():
    """A list of safe globals that is not empty."""
    before = torch.serialization.get_safe_globals()
    torch.serialization.add_safe_globals([str])
    yield torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals(before)


def test_list_of_safe_globals_is_neither_used_nor_changed(tmp_path, safe_str):
    path = write(tmp_path / 'file.pth', WEIGHTS, more=Calls(str, 7), array=np.arange(3))
    with pytest.raises(CheckpointError, match='was rejected'):
        read_checkpoint(path)
    assert torch.serialization.get_safe_globals() == safe_str


def test_many_threads_read_what_was_saved_beside_torch():
    assert set(race(loads=200, threads=4)) == {'right', 'torch.load: right'}


def test_trust_holds_in_its_own_thread(tmp_path):
    bad = write(tmp_path / 'bad.pth', WEIGHTS, more=Calls(str, 7))
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
