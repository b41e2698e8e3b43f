"""Tests matching: tensors of an unsuitable type or value are rejected, and foreign load hooks run."""

import pytest
import torch
from mmengine.model import BaseModule
from torch import nn

from mmvmamba import VMamba
from mmvmamba.checkpoint import CheckpointError, load_checked, load_pretrained, match_state_dict

ARCH = dict(dims=8, depths=(1, 1, 1, 1), ssm_ratio=1.0)
TENSOR = 'layers.1.blocks.0.op.in_proj.weight'


class Detector(BaseModule):
    """A model with a neck whose load hook renames an old key and converts an old shape."""

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
    with pytest.raises(CheckpointError, match=rf'file\.pth.*mismatched.*{name.removeprefix("backbone.")} is ') as error:
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
    found = match_state_dict(model, model.state_dict() | {'a\n\x1b[31mb': torch.ones(1)})
    assert found.report().count('\n') == 2
    assert r'a\n\x1b[31mb' in found.report() and r'a\n\x1b[31mb' in found.differences()


def test_hooks_of_other_modules_rename_and_reshape():
    model = Detector()
    tensors = {key: torch.zeros_like(tensor) for key, tensor in model.state_dict().items()}
    for part in ('weight', 'bias'):
        tensors[f'neck.old.{part}'] = tensors.pop(f'neck.conv.{part}') + 2
    tensors['neck.scales'] = torch.arange(5.0)
    del tensors['neck.scale'], tensors['neck.norm.num_batches_tracked']
    found = match_state_dict(model, tensors)
    assert found.sources['neck.conv.bias'] == 'neck.old.bias'
    assert found.sources['neck.scale'] == 'neck.scales'
    assert found.resized == ['neck.scale']
    assert not (found.missing or found.kept or found.unexpected or found.mismatched)
    load_checked(model, tensors, 'file.pth')
    assert model.neck.scale == 2
    assert (model.neck.conv.weight == 2).all()


def test_renamed_tensor_of_another_shape_is_listed_as_mismatched():
    """Fine-tuning must be able to skip a head with another number of classes, also in a file with old keys."""
    model = Detector()
    tensors = model.state_dict()
    for part in ('weight', 'bias'):
        tensors[f'neck.old.{part}'] = tensors.pop(f'neck.conv.{part}')[:3] + 2
    del tensors['neck.norm.num_batches_tracked']
    found = match_state_dict(model, tensors)
    assert found.mismatched == {
        'neck.conv.weight': 'has shape (3, 8, 1, 1) instead of (8, 8, 1, 1)',
        'neck.conv.bias': 'has shape (3,) instead of (8,)',
    }
    assert not found.missing and 'neck.scale' in found.tensors
    load_checked(model, tensors, 'file.pth', least=0.5)


def test_matching_does_not_change_the_state_dict():
    """PyTorch stores the option `assign` in the metadata, which would also apply to later loads."""
    model, tensors = Detector(), Detector().state_dict()
    kept = model.neck.conv.weight
    tensors['neck.conv.weight'].requires_grad_()
    match_state_dict(model, tensors)
    model.load_state_dict(tensors)
    assert model.neck.conv.weight is kept
    assert tensors['neck.conv.weight'].requires_grad


class CopyingNeck(nn.Module):
    """Copies its tensor itself instead of calling PyTorch's code, as some quantised layers do."""

    def __init__(self):
        super().__init__()
        self.register_buffer('scale', torch.zeros(2))

    def _load_from_state_dict(self, state_dict, prefix, *args):
        self.scale.copy_(state_dict[f'{prefix}scale'])


def test_module_that_copies_its_tensors_itself_is_loaded():
    model = nn.Sequential(CopyingNeck())
    found = match_state_dict(model, {'0.scale': torch.ones(2)})
    assert found.tensors.keys() == {'0.scale'} and not found.missing
    found.load_into(model)
    assert model[0].scale.tolist() == [1, 1]


@pytest.mark.parametrize('names', ['ab', 'a', 'b'])
def test_module_with_two_names_is_loaded_under_any_of_them(names):
    model = nn.Module()
    model.a = model.b = nn.Linear(2, 2)
    tensors = {f'{name}.{part}': torch.ones_like(t) for name in names for part, t in model.a.state_dict().items()}
    found = match_state_dict(model, tensors)
    assert found.tensors.keys() == model.state_dict().keys() and not found.missing and not found.unexpected
    load_checked(model, tensors, 'file.pth')
    assert (model.a.weight == 1).all()


class FailingNeck(nn.Module):
    def _load_from_state_dict(self, state_dict, prefix, metadata, strict, missing, unexpected, errors):
        errors.append('version 3 of this neck\nis not supported')


def test_error_of_a_load_hook_is_raised():
    with pytest.raises(CheckpointError, match=r'^file\.pth: version 3 of this neck is not supported$'):
        match_state_dict(nn.Sequential(FailingNeck()), {'0.weight': torch.ones(2)}, 'file.pth')


def test_pretrained_part_reports_what_the_file_does_not_have(tmp_path, monkeypatch):
    """A module that is not a backbone accepts a file with fewer tensors, but not one with unsuitable tensors."""
    messages = []
    monkeypatch.setattr('mmvmamba.checkpoint.loading.print_log', lambda message, **_: messages.append(message))
    tensors = {f'neck.{key}': tensor for key, tensor in Neck().state_dict().items()}
    del tensors['neck.norm.bias']
    torch.save(tensors, tmp_path / 'file.pth')
    load_pretrained(Neck(), tmp_path / 'file.pth', prefix='neck')
    assert messages[-1].endswith('does not have all tensors of Neck, which keep their values: norm.bias')
    tensors['neck.conv.weight'] = tensors['neck.conv.weight'].long()
    torch.save(tensors, tmp_path / 'file.pth')
    with pytest.raises(CheckpointError, match='does not fit Neck; 1 missing: norm.bias; 1 mismatched: conv.weight is '):
        load_pretrained(Neck(), tmp_path / 'file.pth', prefix='neck')


def test_file_is_read_and_matched_once(tmp_path, monkeypatch):
    from mmvmamba.checkpoint import loading

    counts = dict(read=0, match=0)

    def counted(name, function):
        def call(*arguments):
            counts[name] += 1
            return function(*arguments)

        return call

    monkeypatch.setattr(loading, 'read_checkpoint', counted('read', loading.read_checkpoint))
    monkeypatch.setattr(loading, 'match_state_dict', counted('match', loading.match_state_dict))
    torch.save(VMamba(ARCH).state_dict(), tmp_path / 'file.pth')
    VMamba(ARCH, init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'file.pth'))).init_weights()
    assert counts == dict(read=1, match=1)
