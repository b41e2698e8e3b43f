"""Tests the error for an unknown prefix of the checkpoint keys: it names the prefix, and the suggested fix works."""

import re
import shlex
from pathlib import Path

import pytest
import torch
from mmengine.runner import load_checkpoint
from torch import nn

from mmvmamba import Vim, VMamba
from mmvmamba.checkpoint import (
    CheckpointError,
    load_checked,
    load_pretrained,
    match_state_dict,
    read_checkpoint,
    unwrap_state_dict,
)
from mmvmamba.checkpoint.prefixes import unknown_prefixes
from mmvmamba.conversion import to_mmengine

ARCH = dict(dims=8, depths=(1, 1, 1, 1), ssm_ratio=1.0)
FAMILIES = {
    'VMamba': lambda **kwargs: VMamba(ARCH, **kwargs),
    'Vim': lambda **kwargs: Vim(dict(embed_dims=16, depth=2), **kwargs),
}
PREFIXES = ['encoder.', 'vssm_encoder.', 'student.backbone.', '_orig_mod.', 'model.net.', 'backbone.bottom_up.']


class Model(nn.Module):
    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(2, 2)


def prefixed(model, *prefixes):
    tensors = model.state_dict()
    return {f'{prefix}{name}': torch.randn_like(tensor) for prefix in prefixes for name, tensor in tensors.items()}


def holds(model, tensors, prefix):
    return all(torch.equal(tensor, tensors[prefix + name]) for name, tensor in model.state_dict().items())


def run(message):
    """Runs the command at the end of a message, split as a shell would, and returns the file it writes."""
    option, program = shlex.split(re.search(r'without the prefix: python (.*)$', message)[1])
    assert option == '-c'
    exec(program, {})
    return Path('OUT.pth')


@pytest.mark.parametrize('prefix', PREFIXES)
@pytest.mark.parametrize('family', FAMILIES)
def test_error_names_the_prefix_to_pass_in_init_cfg(family, prefix, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / 'a file.pth'
    tensors = prefixed(FAMILIES[family](), prefix) | {'projector.weight': torch.ones(1)}
    torch.save(dict(state_dict=tensors), file)
    given = dict(type='Pretrained', checkpoint=str(file))
    with pytest.raises(CheckpointError, match=rf"a file\.pth has the tensors of {family} under the prefix '") as error:
        FAMILIES[family](init_cfg=given).init_weights()
    assert 'missing' not in str(error.value) and '\n' not in str(error.value)
    named = re.search(r"pass prefix='(\S+)' in the init_cfg", str(error.value))[1]
    for text in (named, named.removesuffix('.')):  # mmengine accepts both
        backbone = FAMILIES[family](init_cfg=dict(given, prefix=text))
        backbone.init_weights()
        assert holds(backbone, tensors, prefix)
    backbone = FAMILIES[family]()
    load_pretrained(backbone, run(str(error.value)))
    assert holds(backbone, tensors, prefix)


def test_error_for_a_wrong_prefix_names_the_right_one(tmp_path):
    torch.save(prefixed(VMamba(ARCH), 'encoder.'), tmp_path / 'file.pth')
    with pytest.raises(CheckpointError, match=r"under the prefix 'encoder\.': pass prefix='encoder\.' in"):
        load_pretrained(VMamba(ARCH), tmp_path / 'file.pth', prefix='backbone.')


@pytest.mark.parametrize('prefix', ['student.', '_orig_mod.'])
@pytest.mark.parametrize('make', [lambda: Model(VMamba(ARCH)), lambda: Model(Vim(dict(embed_dims=16, depth=2)))])
def test_command_in_the_message_makes_a_whole_model_loadable(make, prefix, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = make()
    tensors = prefixed(model, prefix)
    torch.save(tensors, tmp_path / 'file.pth')
    with pytest.raises(
        CheckpointError, match=rf"file\.pth has the tensors of Model under the prefix '{prefix}'"
    ) as error:
        load_checked(model, unwrap_state_dict(read_checkpoint(tmp_path / 'file.pth')), tmp_path / 'file.pth')
    load_checked(model, unwrap_state_dict(read_checkpoint(run(str(error.value)))), 'OUT.pth')
    assert holds(model, tensors, prefix)


def test_prefix_is_named_for_a_third_party_model():
    """The backbone is not from this package, so no keys are renamed."""
    model = nn.Sequential(*(nn.Linear(2, 2) for _ in range(8)))
    with pytest.raises(CheckpointError, match=r"x\.pth has the tensors of Sequential under the prefix 'net\.'"):
        load_checked(model, prefixed(model, 'net.'), 'x.pth')


def test_student_and_teacher_prefixes_are_both_named():
    tensors = prefixed(VMamba(ARCH), 'student.backbone.', 'teacher.backbone.')
    assert unknown_prefixes(VMamba(ARCH), tensors) == ['student.', 'teacher.']
    with pytest.raises(CheckpointError, match=r"under the prefix 'student\.' and 'teacher\.': pass prefix='student\.'"):
        match_state_dict(VMamba(ARCH), tensors, 'x.pth')


def test_converter_names_the_prefix_of_a_released_variant():
    with torch.device('meta'):
        names = {f'encoder.{name}': tensor for name, tensor in Vim('tiny', pooling='middle').state_dict().items()}
    with pytest.raises(CheckpointError, match=r"^x\.pth has the tensors of Vim under the prefix 'encoder\.'"):
        to_mmengine(names, filename='x.pth')


@pytest.mark.parametrize('prefix', ['encoder.', 'student.backbone.', 'backbone.'])
def test_mmengine_loads_a_backbone_with_the_call_in_the_message(prefix, tmp_path):
    tensors = prefixed(VMamba(ARCH), prefix) | {'neck.weight': torch.ones(1)}
    torch.save(dict(state_dict=tensors), tmp_path / 'file.pth')
    backbone = VMamba(ARCH)
    with pytest.raises(CheckpointError, match='the file has the tensors of VMamba under the prefix') as error:
        load_checkpoint(backbone, str(tmp_path / 'file.pth'))
    named = re.search(r"load_pretrained\(model, FILE, prefix='(\S+)'\) of mmvmamba\.checkpoint", str(error.value))[1]
    load_pretrained(backbone, tmp_path / 'file.pth', prefix=named)
    assert holds(backbone, tensors, prefix)


def test_mmengine_loads_a_model_with_the_call_in_the_message(tmp_path):
    tensors = prefixed(VMamba(ARCH), 'backbone.bottom_up.')
    torch.save(dict(state_dict=tensors), tmp_path / 'file.pth')
    model = Model(VMamba(ARCH))
    with pytest.raises(
        CheckpointError, match=r"under the prefix 'backbone\.bottom_up\.' instead of 'backbone\.'"
    ) as error:
        load_checkpoint(model, str(tmp_path / 'file.pth'))
    [(old, new)] = eval(re.search(r'revise_keys=(\[.*\])\) of mmengine', str(error.value))[1])
    load_checkpoint(model, str(tmp_path / 'file.pth'), revise_keys=[(old, new)])
    assert holds(model.backbone, tensors, 'backbone.bottom_up.')


@pytest.mark.parametrize('container', ['network_weights', 'models', 'net'])
def test_mmengine_names_the_keys_of_an_unknown_container(container, tmp_path):
    torch.save({container: VMamba(ARCH).state_dict(), 'epoch': 3}, tmp_path / 'file.pth')
    with pytest.raises(CheckpointError, match=f'has no weights under .*; its keys are: {container}, epoch'):
        load_checkpoint(VMamba(ARCH), str(tmp_path / 'file.pth'))


@pytest.mark.parametrize(
    'names',
    [
        ['x' * 100_000 + '.weight'] * 2,
        ['.'.join('a' * 50_000)] * 2,
        ["a'; rm -rf .weight", 'b\n.weight', ''],
        [f'{prefix}.{i}.weight' for i in range(200) for prefix in 'ab'],
    ],
)
def test_unrelated_keys_have_no_prefix(names):
    assert unknown_prefixes(VMamba(ARCH), names) == []


def test_missing_tensor_is_not_reported_as_a_prefix():
    tensors = prefixed(VMamba(ARCH), '', 'ema.')
    del tensors['patch_embed.0.weight']
    with pytest.raises(CheckpointError, match=r'missing keys: patch_embed\.0\.weight'):
        match_state_dict(VMamba(ARCH), tensors, 'x.pth')
