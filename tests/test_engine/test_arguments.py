"""Tests how tools/train.py adjusts `cfg.compile` before MMEngine passes it to torch.compile."""

import pytest
import torch

from mmvmamba.engine.arguments import compiler_options

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
def test_layout_optimization_is_disabled_on_cpu(given, made, gpu):
    before = repr(given)
    assert compiler_options(given) == made
    assert repr(given) == before, 'the config of the caller is as it was'


CHOICES = [
    False,
    dict(backend='eager'),
    dict(mode='reduce-overhead'),  # torch.compile accepts either mode or options
    dict(options={'layout_optimization': True}),
]


@pytest.mark.parametrize('gpu', [False], indirect=True)
@pytest.mark.parametrize('given', CHOICES)
def test_explicit_choice_is_kept_on_cpu(given, gpu):
    assert compiler_options(given) == given


@pytest.mark.parametrize('gpu', [True], indirect=True)
@pytest.mark.parametrize('given', [True, dict(fullgraph=True), *CHOICES])
def test_options_are_unchanged_on_gpu(given, gpu):
    assert compiler_options(given) == given
