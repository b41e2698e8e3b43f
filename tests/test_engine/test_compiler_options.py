"""What tools/train.py makes of `cfg.compile` before MMEngine hands it to torch.compile."""

import pytest
import torch

from mmvmamba.engine.launch import compiler_options

OFF = {'layout_optimization': False}


@pytest.fixture
def gpu(request, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: request.param)


@pytest.mark.parametrize('gpu', [False], indirect=True)
@pytest.mark.parametrize(
    'given, made',
    [
        (True, dict(options=OFF)),
        (dict(fullgraph=True), dict(fullgraph=True, options=OFF)),
        (dict(backend='inductor'), dict(backend='inductor', options=OFF)),
        (dict(options={'max_autotune': True}), dict(options={**OFF, 'max_autotune': True})),
    ],
)
def test_inductor_keeps_layouts_on_a_cpu(given, made, gpu):
    before = repr(given)
    assert compiler_options(given) == made
    assert repr(given) == before, 'the config of the caller is as it was'


CHOICES = [
    False,
    dict(backend='eager'),
    dict(mode='reduce-overhead'),  # torch.compile takes a mode or options
    dict(options={'layout_optimization': True}),
]


@pytest.mark.parametrize('gpu', [False], indirect=True)
@pytest.mark.parametrize('given', CHOICES)
def test_a_choice_of_the_user_is_left_on_a_cpu(given, gpu):
    assert compiler_options(given) == given


@pytest.mark.parametrize('gpu', [True], indirect=True)
@pytest.mark.parametrize('given', [True, dict(fullgraph=True), *CHOICES])
def test_everything_is_left_on_a_gpu(given, gpu):
    assert compiler_options(given) == given
