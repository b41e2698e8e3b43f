"""Draws models of every family with up to two arguments replaced by values that users might write."""

import inspect
import sys

import torch
from hypothesis import strategies as st

from mmvmamba.models.backbone import FAMILIES
from tests.test_models.test_contract import SMALL

from .outcome import Case

# Values for any argument. No number is large enough to build a model that does not fit into memory.
ANYTHING = (
    *(None, True, False, -2, -1, 0, 1, 2, 3, 4, 7, 0.0, 0.25, 0.5, 1.0, 1.5, -0.5, float('nan'), float('inf')),
    *('', 'x', '2', 'tiny', 'missing.pth', (), (0,), (1,), (2,), (-1,), (0, 0), (1, 0), (0, 9), (0, 'x'), (0, None)),
    *([0], {0}, {}, {'a': 1}, {'type': 'Pretrained'}, (1, 2, 1, 1), (0, 1, 0, 0), (8, 16, 32, 64), (4, 0, 4, 4)),
    *((1, 2, 1), (1, 2, 'x', 1), (1, 2, 1, None), [[1]], b'x', 3 + 0j, ...),
)
# Valid or nearly valid values.
CHOICES = dict(
    in_channels=(1, 4),
    out_indices=((0,), (1,), [1, 0], (0, 1)),
    drop_path_rate=(0, 0.0, 0.3),
    frozen_stages=(-1, 0, 1, 2),
    with_cp=(True, False),
    init_cfg=(None, {'type': 'Pretrained', 'checkpoint': 'missing.pth'}, {'type': 'Pretrained', 'checkpoint': 7}),
    pretrained=(None, 'missing.pth'),
    dims=(2, 8, (8, 8, 8, 9), [4, 8, 12, 16]),
    depths=((0, 1, 0, 2), [1, 1, 1, 1]),
    ssm_ratio=(1, 2.0, 0.7, 0.01),
    mlp_ratio=(0, 1, 2.5, 0.01),
    d_state=(1, 3),
    gate=(True, False),
    conv_bias=(True, False),
    divide_out=(True, False),
    embed_dims=(4, 12, 15),
    depth=(1, 2, 3, 4),
    width=(4, 5),
    expand=(1, 3),
    rope_grid=(None, 1, 14),
    traversals=('cross', 'unidirectional', ('row',), ('row', 'column', 'row'), ('row', 'diagonal'), ['column']),
    stem=('conv', 'patch'),
    downsample=('conv', 'merging'),
    dt_rank=('auto', 1, 5),
    pooling=('middle', 'head', 'double', 'mean', 'max'),
    feature=('residual', 'residual_official', 'mixer'),
    pretrained_cls_slot=('middle', 'head', 'official'),
    bidirectionality=('none', 'ssm', 'ssm_conv', 'alternating_blocks', 'random_flip'),
    img_size=(16, 33, 64),
    patch_size=(4, 16),
    patch_stride=(4, 16),
)


@st.composite
def cases(draw):
    family = draw(st.sampled_from(list(FAMILIES.values())))
    arguments = dict(SMALL[family])
    if isinstance(arguments['arch'], str):
        arguments['arch'] = family.archs[arguments['arch']]
    arguments['arch'] = dict(arguments['arch'])
    defaults = getattr(sys.modules[family.__module__], 'ARCH_DEFAULTS', {})
    fields = [*sorted({*arguments['arch'], *defaults}), 'no_field']
    others = list(inspect.signature(family).parameters)
    names = draw(st.lists(st.sampled_from(others + fields), max_size=2, unique=True))
    for name in sorted(names, key=lambda name: name == 'arch'):
        value = draw(st.sampled_from(CHOICES.get(name, ANYTHING) if draw(st.booleans()) else ANYTHING))
        (arguments['arch'] if name in fields else arguments)[name] = value

    def call():
        torch.manual_seed(0)
        model = family(**arguments).eval()
        model.init_weights()
        x = torch.randn(2, model.in_channels, 37, 50)
        outs = model(x)
        sum(out.mean() for out in outs).backward()
        return model, outs

    def right(result):
        model, outs = result
        assert len(outs) == len(arguments.get('out_indices', model.out_indices)), f'{len(outs)} maps'
        assert all(len(out) == 2 and out.numel() and out.isfinite().all() for out in outs), 'not finite'

    drawn = f'{family.__name__}({", ".join(f"{name}={value!r}" for name, value in arguments.items())})'
    # a depth smaller than out_indices needs may be the reported error
    return Case(family.__name__, call, right, drawn, (*names, *(['out_indices'] if 'depth' in names else [])))
