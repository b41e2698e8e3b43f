"""What `torch.save` writes, in its present format and the one before PyTorch 1.6, is read as `torch.load` reads it."""

import io
import sys

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from mmvmamba.checkpoint import CheckpointError, read_checkpoint

from .raw import dict_of, pickled, record, storage, tensor, zip_of

FORMATS = pytest.mark.parametrize('zipped', [True, False], ids=['zip', 'legacy'])
DTYPES = [
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128),
    *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool),
    *(torch.uint16, torch.uint32, torch.uint64, torch.float8_e4m3fn, torch.float8_e5m2),
]


@pytest.fixture
def save(tmp_path):
    def save(content, zipped):
        torch.save(content, tmp_path / 'file.pth', _use_new_zipfile_serialization=zipped)
        return tmp_path / 'file.pth'

    return save


def same_bytes(first, second):
    return first.contiguous().view(torch.uint8).tolist() == second.contiguous().view(torch.uint8).tolist()


@FORMATS
@pytest.mark.parametrize('dtype', DTYPES, ids=str)
def test_every_type(save, zipped, dtype):
    tensors = {
        'matrix': torch.randint(0, 2, (3, 4)).to(dtype),
        'scalar': torch.ones(()).to(dtype).reshape(()),
        'empty': torch.ones(0, 3).to(dtype),
    }
    try:
        path = save(tensors, zipped)
    except KeyError:
        pytest.skip('this version of PyTorch cannot save the type')
    read = read_checkpoint(path)
    for name, value in tensors.items():
        assert read[name].dtype == dtype and read[name].shape == value.shape
        assert same_bytes(read[name].reshape(-1), value.reshape(-1))


@FORMATS
def test_strides_and_shared_storages(save, zipped):
    base = torch.randn(4, 6, 2, 2)
    views = {
        'base': base,
        'transposed': base.transpose(0, 1),
        'part': base[1:3, ::2],
        'channels last': base.contiguous(memory_format=torch.channels_last),
        'expanded': torch.ones(1, 3).expand(5, 3),
    }
    read = read_checkpoint(save(views, zipped))
    for name, view in views.items():
        assert torch.equal(read[name], view) and read[name].stride() == view.stride()
    read['base'].zero_()
    assert (read['transposed'] == 0).all() and (read['part'] == 0).all()


@FORMATS
def test_parameters_and_buffers_are_read_as_tensors(save, zipped):
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    content = {'state_dict': model.state_dict(), 'parameters': list(model.parameters())}
    read = read_checkpoint(save(content, zipped))
    assert all(torch.equal(read['state_dict'][name], value) for name, value in model.state_dict().items())
    assert read['state_dict']._metadata == model.state_dict()._metadata
    for value, parameter in zip(read['parameters'], model.parameters()):
        assert type(value) is torch.Tensor and torch.equal(value, parameter) and not value.requires_grad


@FORMATS
@pytest.mark.parametrize('name', sorted(set(dir(torch.optim)) - {'Optimizer', 'SparseAdam', 'Muon'}))
def test_state_of_every_optimizer(save, zipped, name):
    kind = getattr(torch.optim, name)
    if not isinstance(kind, type):
        pytest.skip('not an optimizer')
    layer = nn.Linear(3, 2)
    optimizer = kind(layer.parameters(), lr=0.1)

    def closure():
        optimizer.zero_grad()
        loss = layer(torch.ones(1, 3)).square().mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    path = save({'optimizer': optimizer.state_dict()}, zipped)
    read, expected = read_checkpoint(path)['optimizer'], torch.load(path, weights_only=True)['optimizer']
    assert repr(read) == repr(expected)
    kind(layer.parameters(), lr=0.5).load_state_dict(read)


@FORMATS
@pytest.mark.parametrize(
    'map_location',
    [None, 'cpu', torch.device('cpu'), {'cpu': 'meta'}, {'cuda:0': 'cpu'}, 'meta', lambda storage, location: storage],
)
def test_map_location(save, zipped, map_location):
    path = save({'weight': torch.arange(4.0)}, zipped)
    read = read_checkpoint(path, map_location)['weight']
    expected = torch.load(path, map_location, weights_only=True)['weight']
    assert read.device == expected.device and read.shape == expected.shape
    if not read.is_meta:
        assert torch.equal(read, expected)


@FORMATS
def test_function_as_map_location_sees_each_storage_once(save, zipped):
    base, seen = torch.arange(6.0), []
    path = save({'first': base[:2], 'second': base[3:], 'other': torch.ones(1)}, zipped)

    def on_cpu(content, location):
        seen.append((content.nbytes(), location))

    assert read_checkpoint(path, on_cpu)['second'].tolist() == [3, 4, 5]
    assert sorted(seen) == [(4, 'cpu'), (24, 'cpu')]


@FORMATS
def test_map_location_that_fails_is_not_blamed_on_the_file(save, zipped):
    path = save({'weight': torch.ones(1)}, zipped)
    with pytest.raises(CheckpointError, match=r"saved on 'cpu' cannot be moved by map_location \(KeyError: 'x'\)"):
        read_checkpoint(path, lambda storage, location: {}['x'])


def test_storage_of_a_device_that_is_not_here(tmp_path):
    content = dict_of(w=tensor(storage('0', 1, 'torch.FloatStorage', 'cuda:77'), (1,), (1,)))
    records = [record('a/data.pkl', pickled(content)), record('a/data/0', np.float32(3).tobytes())]
    (tmp_path / 'file.pth').write_bytes(zip_of(records))
    assert read_checkpoint(tmp_path / 'file.pth')['w'] == 3
    with pytest.raises(
        CheckpointError, match=r"file\.pth cannot be read: a tensor that was saved on 'cuda:77' .*'cpu'"
    ):
        read_checkpoint(tmp_path / 'file.pth', None)


@pytest.mark.parametrize('kind, dtype', [('Float', 'f4'), ('Long', 'i8'), ('ComplexFloat', 'c8'), ('Byte', 'u1')])
@pytest.mark.parametrize('order', ['little', 'big', None])
def test_byte_order(tmp_path, kind, dtype, order):
    values = np.arange(4).astype(dtype)
    stored = values.astype(np.dtype(dtype).newbyteorder('>' if order == 'big' else '<'))
    content = dict_of(w=tensor(storage('0', 4, f'torch.{kind}Storage'), (4,), (1,)))
    records = [record('a/data.pkl', pickled(content)), record('a/data/0', stored.tobytes())]
    if order:
        records.append(record('a/byteorder', order.encode()))
    (tmp_path / 'file.pth').write_bytes(zip_of(records))
    assert sys.byteorder == 'little'
    assert read_checkpoint(tmp_path / 'file.pth')['w'].numpy().tolist() == values.tolist()


def _save(content, **options):
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


numbers = st.none() | st.booleans() | st.integers(-(2**64), 2**64) | st.floats(allow_nan=False)
words = st.text(max_size=20) | st.binary(max_size=20)
keys = st.text(max_size=5) | st.integers(-9, 9) | st.floats(allow_nan=False, allow_infinity=False)
tensors = st.builds(
    lambda shape, dtype: torch.arange(int(np.prod(shape)), dtype=torch.float32).reshape(shape).to(dtype),
    st.lists(st.integers(0, 3), max_size=3),
    st.sampled_from(DTYPES[:12]),
)
values = st.recursive(
    numbers | words | tensors,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(keys, inner, max_size=4)
        | st.lists(inner, max_size=2).map(lambda items: [items, items])
    ),
    max_leaves=20,
)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(content=st.dictionaries(st.text(max_size=5), values, max_size=5), zipped=st.booleans())
def test_any_data_is_read_as_torch_reads_it(tmp_path_factory, content, zipped):
    path = tmp_path_factory.getbasetemp() / 'any.pth'
    path.write_bytes(_save(content, _use_new_zipfile_serialization=zipped))
    assert repr(read_checkpoint(path)) == repr(torch.load(path, weights_only=False))
