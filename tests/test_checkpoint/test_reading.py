"""Tests that checkpoint files are read as data only, and that mismatching weights are rejected by name."""

import argparse
import pickle
import sys
import tarfile
import threading
import zipfile
from collections import OrderedDict
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from types import ModuleType

import numpy as np
import pytest
import torch
from mmengine.dataset import DefaultSampler
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import DataLoader

from mmvmamba.checkpoint import (
    CheckpointError,
    load_checked,
    load_pretrained,
    read_checkpoint,
    trust_checkpoints,
    unwrap_state_dict,
)


class Writes:
    """Unpickling this object creates a file."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return exec, (f'open({self.marker!r}, "w").close()',)


class Gets:
    """Unpickling this object accesses a function through an allowed name."""

    def __init__(self, owner, name):
        self.arguments = owner, name

    def __reduce__(self):
        return getattr, self.arguments


@pytest.fixture
def file(tmp_path):
    return tmp_path / 'checkpoint.pth'


@pytest.mark.parametrize('save', [torch.save, partial(torch.save, _use_new_zipfile_serialization=False)])
def test_code_in_a_checkpoint_is_not_executed(file, tmp_path, save):
    marker = tmp_path / 'marker'
    save({'state_dict': {'weight': torch.ones(2)}, 'meta': Writes(marker)}, file)
    with pytest.raises(CheckpointError, match=r'checkpoint\.pth was rejected .*exec.*--trust-checkpoint') as error:
        read_checkpoint(file)
    assert '\n' not in str(error.value)
    assert not marker.exists()

    assert torch.equal(read_checkpoint(file, trust=True)['state_dict']['weight'], torch.ones(2))
    assert marker.exists()
    marker.unlink()
    with trust_checkpoints():
        read_checkpoint(file)
    assert marker.exists()
    with pytest.raises(CheckpointError):
        read_checkpoint(file)


def test_formats_that_old_torch_executes_are_rejected(file):
    """torch below 2.6 can execute code from TorchScript and tar files; an appended zip must not hide the tar."""
    torch.jit.script(nn.Linear(1, 1)).save(file)
    with pytest.raises(CheckpointError, match='is a TorchScript program'):
        read_checkpoint(file)
    with tarfile.open(file, 'w') as tar:
        tar.addfile(tarfile.TarInfo('pickle'))
    with zipfile.ZipFile(file, 'a') as archive:
        archive.writestr('archive/data.pkl', b'')
    with pytest.raises(CheckpointError, match='the tar format'):
        read_checkpoint(file)


@pytest.mark.parametrize(
    'thing',
    [Gets(HistoryBuffer, '__init__'), Gets('text', 'mean'), np.array([print], dtype=object), np.dtype('O')],
    ids=['attribute', 'owner', 'array of objects', 'dtype of objects'],
)
def test_allowed_names_create_only_data(file, thing):
    torch.save({'state_dict': {}, 'meta': thing}, file)
    with pytest.raises(CheckpointError, match='was rejected'):
        read_checkpoint(file)


def test_allow_list_is_reset_after_reading(file):
    torch.save({'args': argparse.Namespace(lr=1)}, file)
    read_checkpoint(file)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(file, weights_only=True)


def test_official_classification_file_loads_without_yacs(file, monkeypatch):
    """Released files hold a yacs config beside the weights; it must load where yacs is not installed."""
    yacs, config = ModuleType('yacs'), ModuleType('yacs.config')

    class CfgNode(dict):
        def __init__(self, entries):
            super().__init__({k: CfgNode(v) if isinstance(v, dict) else v for k, v in entries.items()})
            self.__dict__.update(__immutable__=True, __deprecated_keys__=set(), __new_allowed__=False)

    CfgNode.__module__, CfgNode.__qualname__ = 'yacs.config', 'CfgNode'
    config.CfgNode = CfgNode
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, 'yacs', yacs)
        patch.setitem(sys.modules, 'yacs.config', config)
        node = CfgNode({'MODEL': {'NAME': 'vssm', 'DEPTHS': [2, 2, 8, 2]}, 'OUTPUT': ''})
        torch.save({'model': {'weight': torch.ones(3)}, 'epoch': 292, 'max_accuracy': 82.6, 'config': node}, file)

    content = read_checkpoint(file)
    assert content['config']['MODEL'] == {'NAME': 'vssm', 'DEPTHS': [2, 2, 8, 2]}
    assert list(unwrap_state_dict(content)) == ['weight']


def test_values_written_by_other_trainers_are_read(file):
    values = {
        'args': argparse.Namespace(lr=1e-3, betas=(0.9, 0.999)),
        'best': np.float64(0.5),
        'palette': np.arange(6, dtype=np.uint8).reshape(2, 3),
        'names': np.array(['a', 'bc']),
        'flag': np.bool_(True),
        'losses': HistoryBuffer([1.0, 3.0], [1, 1]),
    }
    torch.save({'state_dict': {'weight': torch.ones(1)}, **values}, file)
    content = read_checkpoint(file)
    assert content['args'] == values['args']
    assert content['best'] == 0.5
    assert content['flag'].dtype == bool
    assert content['palette'].dtype == np.uint8
    assert content['palette'].tolist() == values['palette'].tolist()
    assert content['names'].tolist() == ['a', 'bc']
    assert content['losses'].mean() == 2


class Regression(BaseModel):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 1)
        self.norm = nn.BatchNorm1d(1)

    def forward(self, inputs, mode='tensor'):
        prediction = self.norm(self.layer(inputs))
        return {'loss': prediction.square().mean()} if mode == 'loss' else prediction


def test_checkpoint_written_by_mmengine_is_read(tmp_path):
    data = [{'inputs': torch.randn(2)} for _ in range(8)]
    runner = Runner(
        model=Regression(),
        work_dir=str(tmp_path),
        train_dataloader=DataLoader(data, batch_size=4, sampler=DefaultSampler(data)),
        train_cfg=dict(by_epoch=True, max_epochs=2),
        optim_wrapper=dict(optimizer=dict(type='AdamW', lr=0.1)),
        param_scheduler=dict(type='MultiStepLR', milestones=[1]),
        default_hooks=dict(logger=dict(type='LoggerHook', interval=1)),
        default_scope='mmengine',
    )
    runner.train()
    content = read_checkpoint(tmp_path / 'epoch_2.pth')
    assert content['meta']['iter'] == 4
    assert {'optimizer', 'param_schedulers', 'message_hub'} <= content.keys()
    assert content['message_hub']['log_scalars']['train/loss'].current() > 0
    load_checked(Regression(), unwrap_state_dict(content), 'epoch_2.pth')


def test_url_is_downloaded_and_read(tmp_path, monkeypatch):
    served = tmp_path / 'served'
    served.mkdir()
    torch.save({'state_dict': {'weight': torch.ones(1)}}, served / 'good.pth')
    torch.save({'state_dict': Writes(tmp_path / 'marker')}, served / 'bad.pth')
    monkeypatch.setenv('no_proxy', '127.0.0.1')
    monkeypatch.setattr(torch.hub, '_hub_dir', str(tmp_path / 'hub'))
    handler = partial(SimpleHTTPRequestHandler, directory=str(served))
    with ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f'http://127.0.0.1:{server.server_port}'
        assert 'weight' in read_checkpoint(f'{address}/good.pth')['state_dict']
        with pytest.raises(CheckpointError, match=f'{address}/bad.pth was rejected'):
            read_checkpoint(f'{address}/bad.pth')
        with pytest.raises(CheckpointError, match=f'{address}/none.pth cannot be downloaded .*404'):
            read_checkpoint(f'{address}/none.pth')
        server.shutdown()
    assert not (tmp_path / 'marker').exists()
    assert 'weight' in read_checkpoint(f'{address}/good.pth')['state_dict'], 'the second time it comes from the cache'


def test_unreadable_files_are_rejected(file, tmp_path):
    torch.save({'state_dict': {'weight': torch.randn(1000)}}, file)
    whole = file.read_bytes()
    for content, sentence in (
        (whole[: len(whole) // 2], 'truncated or damaged'),
        (whole[:50], 'truncated or damaged'),
        (b'', 'is empty'),
        (b'<html>Not Found</html>', 'is not a PyTorch checkpoint'),
    ):
        file.write_bytes(content)
        with pytest.raises(CheckpointError, match=rf'checkpoint\.pth {sentence}|checkpoint\.pth .*{sentence}') as error:
            read_checkpoint(file)
        assert '\n' not in str(error.value)
        assert 'again' in str(error.value)

    torch.save([1, 2], file)
    with pytest.raises(CheckpointError, match='contains a list; save the state_dict'):
        read_checkpoint(file)
    with pytest.raises(CheckpointError, match=r'none\.pth does not exist'):
        read_checkpoint(tmp_path / 'none.pth')
    with pytest.raises(CheckpointError, match='is not a file'):
        read_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match='neither a local file nor'):
        read_checkpoint('s3://bucket/file.pth')


def test_unwrap_state_dict():
    weights, other = {'weight': torch.ones(1)}, {'weight': torch.zeros(1)}
    assert unwrap_state_dict({'state_dict': weights, 'model': other})['weight'] == 1
    assert unwrap_state_dict({'model': weights, 'model_ema': other, 'epoch': 3})['weight'] == 1
    assert unwrap_state_dict({'module.weight': torch.ones(1)})['weight'] == 1
    with pytest.raises(CheckpointError, match=r'file\.pth has no weights .* keys are: epoch, ema'):
        unwrap_state_dict({'epoch': 3, 'ema': weights}, 'file.pth')


def test_load_pretrained(file):
    source, target = nn.Linear(2, 3), nn.Linear(2, 3)
    tensors = {f'backbone.{name}': value for name, value in source.state_dict().items()}
    torch.save({'state_dict': OrderedDict(tensors, **{'head.weight': torch.ones(1)})}, file)
    load_pretrained(target, file, prefix='backbone.')
    assert torch.equal(source.weight, target.weight)
    assert torch.equal(source.bias, target.bias)

    with pytest.raises(CheckpointError, match=r"no tensor whose name starts with 'neck\.'; it has: backbone\.weight"):
        load_pretrained(target, file, prefix='neck.')
    with pytest.raises(CheckpointError, match=r'has no tensor of Linear; it has: backbone\.weight'):
        load_pretrained(target, file)
    with pytest.raises(CheckpointError, match=r'mismatched: weight'):
        load_pretrained(nn.Linear(2, 4), file, prefix='backbone.')


def test_load_checked():
    model = nn.Sequential(OrderedDict(body=nn.Linear(4, 4), norm=nn.BatchNorm1d(4), head=nn.Linear(4, 2)))
    own = model.state_dict()
    load_checked(model, own, 'own.pth')
    load_checked(model, {name: value for name, value in own.items() if 'num_batches' not in name}, 'old.pth')

    other_classes = {**own, 'head.weight': torch.ones(5, 4), 'head.bias': torch.ones(5), 'more': torch.ones(1)}
    load_checked(model, other_classes, 'other.pth', least=0.5)
    with pytest.raises(CheckpointError) as error:
        load_checked(model, other_classes, 'other.pth')
    assert 'other.pth does not fit the model of this config: it has 6 of the 8 tensors' in str(error.value)
    assert '2 mismatched: head.weight has shape (5, 4) instead of (2, 4), head.bias has shape (5,) ' in str(error.value)
    assert '1 unexpected: more' in str(error.value)

    del other_classes['body.weight'], other_classes['body.bias'], other_classes['norm.bias']
    with pytest.raises(CheckpointError, match='has 3 of the 8 .* at least 50% .3 missing: body.weight'):
        load_checked(model, other_classes, 'other.pth', least=0.5)

    many = {f'layer{i}.weight': torch.ones(1) for i in range(40)}
    with pytest.raises(CheckpointError, match='has 0 of the 8 .* 40 unexpected: .*layer9.weight and 30 more'):
        load_checked(model, many, 'many.pth', least=0)
