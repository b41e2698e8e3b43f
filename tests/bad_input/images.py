"""Draws small models of every family with images of any size, and with invalid inputs in place of images."""

from functools import cache

import torch
from hypothesis import strategies as st

from mmvmamba.models.backbone import FAMILIES
from tests.test_models.test_contract import build

from .outcome import Case

FLOATS = (torch.float32, torch.float64, torch.bfloat16)
STRIDES = {'VMamba': (4, 8, 16, 32), 'Vim': (16, 16), 'RowMamba': (4, 4)}
SMALLEST = {'VMamba': 1, 'Vim': 16, 'RowMamba': 4}


@cache
def model_of(family, dtype):
    return build(family).eval().to(dtype)


def strided(draw, x):
    return draw(
        st.sampled_from(
            (
                x.contiguous(memory_format=torch.channels_last),
                x.transpose(2, 3).contiguous().transpose(2, 3),
                torch.stack([x, x], 4)[..., 0],
                x.flip(3)[:1].expand_as(x),
            )
        )
    ), False


def with_other_channels(draw, x):
    return x.new_ones(len(x), draw(st.sampled_from((0, 1, 2, 4, 6))), *x.shape[2:]), True


def with_other_rank(draw, x):
    others = x.sum(0), x.mean(1), x[None], x.sum(), x.flatten(2), x.permute(0, 2, 3, 1)
    return draw(st.sampled_from([other for other in others if other.shape[1:2] != (3,) or other.dim() != 4])), True


def with_other_type(draw, x):
    return x.to(draw(st.sampled_from((torch.uint8, torch.int64, torch.bool, torch.complex64, torch.float8_e5m2)))), True


def with_other_precision(draw, x):
    types = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
    return x.to(draw(st.sampled_from([dtype for dtype in types if dtype != x.dtype]))), True


def on_meta_device(draw, x):
    return x.to('meta'), True


def not_a_tensor(draw, x):
    return draw(st.sampled_from((None, 'image.jpg', [x], x.float().numpy()))), True


SPOILERS = (
    strided,
    with_other_channels,
    with_other_rank,
    with_other_type,
    with_other_precision,
    on_meta_device,
    not_a_tensor,
)


@st.composite
def cases(draw):
    family, dtype = draw(st.sampled_from(list(FAMILIES.values()))), draw(st.sampled_from(FLOATS))
    side = st.sampled_from((0, 1, 2, 3, 15, *range(16, 71)))
    b, height, width = draw(st.sampled_from((0, 1, 2, 2))), draw(side), draw(side)
    x = torch.randn(b, 3, height, width, generator=torch.Generator().manual_seed(draw(st.integers(0, 99)))).to(dtype)
    refuse = min(height, width) < SMALLEST.get(family.__name__, 1)
    how = draw(st.sampled_from((None, None, None, strided, strided, *SPOILERS)))
    spoilt = x
    if how is not None:
        spoilt, must_refuse = how(draw, x)
        refuse |= must_refuse
    grad = draw(st.booleans())

    def call():
        with torch.set_grad_enabled(grad):
            return model_of(family, dtype)(spoilt)

    def right(outs):
        strides = STRIDES[family.__name__]
        assert len(outs) == len(strides), f'{len(outs)} maps'
        for out, stride in zip(outs, strides):
            assert out.dtype == dtype and len(out) == b and out.isfinite().all(), 'not finite'
            for got, side in zip(out.shape[2:], (height, width)):
                whole = side // stride if family.__name__ != 'VMamba' else -(-side // stride)
                assert got == whole, f'{tuple(out.shape)} of stride {stride}'
        for out, expected in zip(outs, model_of(family, dtype)(spoilt.clone().contiguous())):
            torch.testing.assert_close(out, expected, atol=1e-2 if dtype == torch.bfloat16 else 1e-5, rtol=1e-2)

    shape = (tuple(spoilt.shape), spoilt.dtype) if isinstance(spoilt, torch.Tensor) else type(spoilt).__name__
    drawn = f'{family.__name__} of {dtype} with {shape}, {getattr(how, "__name__", "as it is")}'
    return Case(f'image, {family.__name__}', call, right, drawn, ('image', 'input', 'in_channels'), refuse)
