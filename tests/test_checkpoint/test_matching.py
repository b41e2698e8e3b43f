"""A tensor of another type is no weight, and nothing is loaded beside it."""

import pytest
import torch
from mmengine.model import BaseModule
from torch import nn

from mmvmamba import VMamba
from mmvmamba.checkpoint import CheckpointError, load_checked, match

ARCH = dict(dims=8, depths=(1, 1, 1, 1), ssm_ratio=1.0)
TENSOR = 'layers.1.blocks.0.op.in_proj.weight'


class Detector(BaseModule):
    """With a neck that reads an old name and an old shape."""

    def __init__(self):
        super().__init__()
        self.backbone = VMamba(ARCH)
        self.neck = Neck()


class Neck(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 1)
        self.norm = nn.BatchNorm2d(8)
        self.scale = nn.Parameter(torch.ones(()))

    def _load_from_state_dict(self, state_dict, prefix, *args):
        for part in ('weight', 'bias'):
            if f'{prefix}old.{part}' in state_dict:
                state_dict[f'{prefix}conv.{part}'] = state_dict.pop(f'{prefix}old.{part}')
        if f'{prefix}scales' in state_dict:
            state_dict[f'{prefix}scale'] = state_dict.pop(f'{prefix}scales').mean()
        super()._load_from_state_dict(state_dict, prefix, *args)


TYPES = {
    'int8': lambda t: t.to(torch.int8),
    'uint8': lambda t: t.to(torch.uint8),
    'int64': lambda t: t.long(),
    'bool': lambda t: t > 0,
    'complex': lambda t: t.to(torch.complex64),
    'float8': lambda t: t.to(torch.float8_e4m3fn),
    'quantised': lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8),
    'sparse': lambda t: t.to_sparse(),
}


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('change', TYPES)
@pytest.mark.parametrize('name', [f'backbone.{TENSOR}', 'neck.conv.weight'])
def test_another_type_is_refused_before_anything_is_loaded(name, change):
    model = Detector()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    tensors = {key: torch.zeros_like(tensor) for key, tensor in before.items()}
    tensors[name] = TYPES[change](tensors[name])
    with pytest.raises(CheckpointError, match=rf'file\.pth.*type.*{name.removeprefix("backbone.")} is ') as error:
        load_checked(model, tensors, 'file.pth')
    assert '\n' not in str(error.value)
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


def test_every_floating_type_is_a_weight():
    model = VMamba(ARCH)
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        load_checked(model, {name: torch.full_like(t, 0.5, dtype=dtype) for name, t in model.state_dict().items()}, 'x')
        assert all((tensor == 0.5).all() for tensor in model.state_dict().values())


@pytest.mark.parametrize(
    'value, source, target',
    [
        (1e300, torch.float64, torch.float32),
        (1e5, torch.float32, torch.float16),
        (-1e39, torch.float64, torch.bfloat16),
    ],
)
def test_values_that_become_infinite_are_rejected_before_anything_is_loaded(value, source, target):
    model = Detector().to(target)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    for name in (f'backbone.{TENSOR}', 'neck.conv.weight', 'neck.norm.running_var'):
        tensors = {key: torch.zeros_like(tensor) for key, tensor in before.items()}
        tensors[name] = tensors[name].to(source)
        tensors[name].view(-1)[-1] = value
        sentence = (
            rf'file\.pth: there is NaN or Inf after the conversion to the type of the model in {name} \({target}\)'
        )
        with pytest.raises(CheckpointError, match=sentence):
            load_checked(model, tensors, 'file.pth')
        assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
        tensors[name] = torch.full_like(tensors[name], 1e4 if target is torch.float16 else 1e38)
        load_checked(model, tensors, 'file.pth')
        model.load_state_dict(before)


def test_integers_beyond_the_type_of_the_model_are_rejected():
    model = nn.Module()
    model.register_buffer('index', torch.zeros(3, dtype=torch.uint8))
    with pytest.raises(CheckpointError, match=r'integers beyond the type of the model in index \(torch.uint8\)'):
        load_checked(model, {'index': torch.tensor([0, 1, 256])}, 'file.pth')
    assert model.index.tolist() == [0, 0, 0]
    load_checked(model, {'index': torch.tensor([0, 1, 255])}, 'file.pth')
    assert model.index.tolist() == [0, 1, 255]


@pytest.mark.filterwarnings('ignore')
def test_nested_tensors_are_named():
    nested = torch.nested.nested_tensor([torch.zeros(3), torch.zeros(2)])
    for name in (f'backbone.{TENSOR}', 'neck.conv.weight', 'other'):
        tensors = Detector().state_dict() | {name: nested}
        with pytest.raises(CheckpointError, match=f'nested tensors, which are not weights: {name}'):
            load_checked(Detector(), tensors, 'file.pth')
    with pytest.raises(CheckpointError, match=f'nested tensors, which are not weights: {TENSOR}'):
        VMamba(ARCH).load_state_dict(VMamba(ARCH).state_dict() | {TENSOR: nested})


def test_names_in_a_report_are_printable(capsys):
    model = nn.Linear(1, 1)
    found = match(model, model.state_dict() | {'a\n\x1b[31mb': torch.ones(1)})
    assert found.report().count('\n') == 2
    assert r'a\n\x1b[31mb' in found.report() and r'a\n\x1b[31mb' in found.differences()


def test_hooks_of_other_modules_rename_and_reshape():
    model = Detector()
    tensors = {key: torch.zeros_like(tensor) for key, tensor in model.state_dict().items()}
    for part in ('weight', 'bias'):
        tensors[f'neck.old.{part}'] = tensors.pop(f'neck.conv.{part}') + 2
    tensors['neck.scales'] = torch.arange(5.0)
    del tensors['neck.scale'], tensors['neck.norm.num_batches_tracked']
    found = match(model, tensors)
    assert found.sources['neck.conv.bias'] == 'neck.old.bias'
    assert found.sources['neck.scale'] == 'neck.scales'
    assert found.resized == ['neck.scale']
    assert not (found.missing or found.fresh or found.left or found.misshapen)
    load_checked(model, tensors, 'file.pth')
    assert model.neck.scale == 2
    assert (model.neck.conv.weight == 2).all()


def test_the_file_is_read_and_judged_once(tmp_path, monkeypatch):
    from mmvmamba.checkpoint import loading

    counts = dict(read=0, match=0)

    def counted(name, function):
        def call(*arguments):
            counts[name] += 1
            return function(*arguments)

        return call

    monkeypatch.setattr(loading, 'read_checkpoint', counted('read', loading.read_checkpoint))
    monkeypatch.setattr(loading, 'match', counted('match', loading.match))
    torch.save(VMamba(ARCH).state_dict(), tmp_path / 'file.pth')
    VMamba(ARCH, init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'file.pth'))).init_weights()
    assert counts == dict(read=1, match=1)
