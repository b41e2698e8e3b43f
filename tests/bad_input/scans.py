"""Draws calls of the scans and convolutions with up to two invalid arguments."""

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor

from mmvmamba.ops import (
    TRAVERSALS,
    conv_silu_1d,
    conv_silu_2d,
    selective_scan,
    selective_scan_2d,
    use_backend,
)
from mmvmamba.ops.scan import reference
from mmvmamba.ops.scan.scan_inputs import ScanInputs
from mmvmamba.ops.scan.traversal import traversal_codes

from .outcome import Case

FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
OTHER_TYPES = (torch.int64, torch.uint8, torch.bool, torch.complex64, torch.float8_e5m2)
NO_TENSORS = (None, 1.5, 'x', [1.0], (2, 3))
OPTIONAL = ('D', 'z', 'bias', 'biases', 'dt_bias', 'delta_bias', 'dt_weight')
BACKENDS = ('auto', 'native', 'chunked', 'reference')


# Each spoiler takes a tensor and returns its replacement and whether the call must fail (None: `right` decides).


def strided(draw, t):
    """Returns the same values with different strides."""
    if t.dim() == 0:
        return t, False
    axis = draw(st.integers(0, t.dim() - 1))
    if draw(st.booleans()):
        return t.transpose(0, axis).contiguous().transpose(0, axis), False
    return torch.stack([t, t], axis + 1).flatten(axis, axis + 1)[(slice(None),) * axis + (slice(None, None, 2),)], False


def with_other_precision(draw, t):
    return t.to(draw(st.sampled_from(FLOATS))), None


def with_other_type(draw, t):
    return t.to(draw(st.sampled_from(OTHER_TYPES))), True


def with_other_size(draw, t):
    if t.dim() == 0:
        return t, False
    axis, shape = draw(st.integers(0, t.dim() - 1)), list(t.shape)
    shape[axis] = draw(st.sampled_from([size for size in (0, 1, 2, 3, 5, 8) if size != shape[axis]]))
    return torch.ones(shape, dtype=t.dtype), None


def with_other_rank(draw, t):
    axis = draw(st.integers(0, t.dim() - 1))
    return draw(st.sampled_from((t.unsqueeze(axis), t.select(axis, 0) if t.shape[axis] else t[None], t.sum()))), None


def on_meta_device(draw, t):
    return t.to('meta'), True


def not_a_tensor(draw, t):
    return draw(st.sampled_from(NO_TENSORS)), None


SPOILERS = (
    strided,
    with_other_precision,
    with_other_type,
    with_other_size,
    with_other_rank,
    on_meta_device,
    not_a_tensor,
)


@st.composite
def cases(draw):
    make = draw(st.sampled_from((scan_2d, scan_2d, scan_1d, scan_1d, conv_2d, conv_1d)))
    function, exact, tensors, options, is_valid = make(draw)
    dtype = draw(st.sampled_from(FLOATS))
    tensors = {name: t if t is None else t.to(dtype) for name, t in tensors.items()}
    spoilt, refuse = {}, False
    present = [name for name, t in tensors.items() if t is not None]
    for name in draw(st.lists(st.sampled_from(present), max_size=2, unique=True)):
        how = draw(st.sampled_from(SPOILERS))
        tensors[name], must_refuse = how(draw, tensors[name])
        spoilt[name] = how.__name__
        refuse |= bool(must_refuse)
    if all(isinstance(t, Tensor) and t.is_meta for t in tensors.values() if t is not None):
        refuse = False  # meta tensors only: shapes are computed without data
    if draw(st.integers(0, 9)) == 0:
        name = draw(st.sampled_from(sorted(WRONG_OPTIONS.keys() & options.keys()) or ['']))
        if name:
            options[name] = draw(st.sampled_from(WRONG_OPTIONS[name]))
            spoilt[name], refuse = 'wrong', True
    backend = draw(st.sampled_from(BACKENDS))
    shapes = {n: (tuple(t.shape), t.dtype) if isinstance(t, Tensor) else t for n, t in tensors.items()}

    def call():
        with use_backend(backend):
            leaves = {n: t.detach().requires_grad_() if is_float(t) else t for n, t in tensors.items()}
            y = function(**leaves, **options)
            return y, gradients(y, leaves)

    def right(result):
        assert is_valid(tensors, options), 'accepted'
        leaves = {n: t.detach().double().requires_grad_() if is_float(t) else t for n, t in tensors.items()}
        y = exact(**leaves, **options)
        types = [t.dtype for t in (result[0], *tensors.values()) if t is not None]
        compare('y', result[0], y, types)
        for name, grad in gradients(y, leaves).items():
            compare(f'the gradient of {name}', result[1][name], grad, types)

    drawn = f'{function.__name__}({shapes}, {options}) on {backend}, spoilt {spoilt}'
    # the error may report an empty map or an unsupported dtype instead
    is_empty = any(0 in t.shape for t in tensors.values() if isinstance(t, Tensor))
    names = () if is_empty else (*spoilt, 'backend')
    return Case(function.__name__, call, right, drawn, names, refuse)


def is_float(t):
    return isinstance(t, Tensor) and t.is_floating_point() and t.dtype in FLOATS


def gradients(y, leaves):
    named = {name: t for name, t in leaves.items() if is_float(t)}
    weight = torch.linspace(1, 3, y.numel(), dtype=torch.float64, device=y.device).view(y.shape)
    return dict(zip(named, torch.autograd.grad((y * weight.to(y.dtype)).sum(), list(named.values()))))


def compare(what, actual, expected, types):
    """Compares values; the tolerance follows the least precise dtype, because operators also round between steps."""
    assert actual.shape == expected.shape, f'{what} is {tuple(actual.shape)}, not {tuple(expected.shape)}'
    if actual.is_meta:
        return
    eps = max(torch.finfo(t).eps for t in types)
    difference = (actual.double() - expected).abs().max() if expected.numel() else 0
    scale = expected.abs().max() + 1 if expected.numel() else 1
    assert difference <= 16 * eps * scale, f'{what} is {difference / scale:.2g} of its size off'


# Each function draws valid arguments; it returns them with the float64 reference and a validity check.

WRONG_OPTIONS = dict(
    traversals=((), 'row', None, 4, ('row', 'diagonal'), (['row'],), ('row',) * 7),
    out_dtype=(torch.int64, torch.complex64, 'float32', 32),
    reverse=((), (True,) * 7, None, 4),
)


def randn(draw):
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    return lambda *shape: torch.randn(shape, generator=generator, dtype=torch.float64)


def size(draw, most, least=1):
    """Draws a size; 0 is rare."""
    return draw(st.sampled_from((*range(least, most + 1),) * 10 + (0,)))


def scan_2d(draw):
    b, H, W, d, n = (size(draw, most) for most in (2, 4, 4, 4, 3))
    traversals = tuple(draw(st.lists(st.sampled_from(TRAVERSALS), min_size=1, max_size=4)))
    K, rank = len(traversals), draw(st.sampled_from((None, None, 1, 2)))
    values, has_D, has_bias = randn(draw), draw(st.booleans()), draw(st.booleans())
    x = values(b, K, H, W, d) if draw(st.booleans()) else values(b, H, W, d)
    tensors = dict(
        x=x,
        dt=values(b, K, H, W, rank or d),
        A=-values(K, d, n).exp(),
        B=values(b, K, H, W, n),
        C=values(b, K, H, W, n),
        D=values(K, d) if has_D else None,
        dt_bias=values(K, d) - 1 if has_bias else None,
        dt_weight=values(K, d, rank) if rank else None,
    )
    options = dict(traversals=traversals, dt_softplus=True, out_dtype=draw(st.sampled_from((None, *FLOATS))))
    return selective_scan_2d, exact_scan_2d, tensors, options, valid_scan_2d


def exact_scan_2d(traversals, dt_softplus, out_dtype, **tensors):
    scan = ScanInputs(**tensors, codes=traversal_codes(traversals), dt_softplus=dt_softplus)
    return reference.selective_scan_2d(scan)


def valid_scan_2d(tensors, options):
    x, dt, A, B, C, D, bias, weight = (tensors[n] for n in ('x', 'dt', 'A', 'B', 'C', 'D', 'dt_bias', 'dt_weight'))
    K, d, n = A.shape
    maps = (len(x), K, *x.shape[-3:-1])
    return (
        x.shape in ((len(x), *maps[2:], d), (*maps, d))
        and len(options['traversals']) == K
        and dt.shape == (*maps, d if weight is None else weight.shape[2])
        and B.shape == C.shape == (*maps, n)
        and (D is None or D.shape == (K, d))
        and (bias is None or bias.shape == (K, d))
        and (weight is None or weight.shape[:2] == (K, d))
        and 0 not in (*maps[1:], d, n, *dt.shape[1:])
    )


def scan_1d(draw):
    b, L, n, d = size(draw, 2), size(draw, 6), size(draw, 3), draw(st.sampled_from((1, 2, 4, 6)))
    values = randn(draw)

    def input_matrix():
        form = draw(st.sampled_from(('constant', 'varying', 'grouped')))
        groups = draw(st.sampled_from([g for g in (1, 2, 3) if d % g == 0]))
        return values(*{'constant': (d, n), 'varying': (b, n, L), 'grouped': (b, groups, n, L)}[form])

    tensors = dict(u=values(b, d, L), delta=values(b, d, L), A=-values(d, n).exp(), B=input_matrix(), C=input_matrix())
    for name, shape in dict(D=(d,), z=(b, d, L), delta_bias=(d,)).items():
        tensors[name] = values(*shape) if draw(st.booleans()) else None
    return selective_scan, exact_scan_1d, tensors, dict(delta_softplus=True), valid_scan_1d


def exact_scan_1d(u, delta, A, B, C, D, z, delta_bias, delta_softplus):
    """Reference implementation, written from the documentation of mamba-ssm."""

    def at(t, step):  # (b or 1, d, n)
        if t.dim() == 2:
            return t[None]
        t = t if t.dim() == 4 else t[:, None]
        return t[..., step].repeat_interleave(len(A) // t.shape[1], 1)

    delta = F.softplus(delta if delta_bias is None else delta + delta_bias[:, None])
    h, y = u.new_zeros(len(u), *A.shape), []
    for t in range(u.shape[2]):
        step = delta[:, :, t, None]
        h = (step * A).exp() * h + step * at(B, t) * u[:, :, t, None]
        y.append((h * at(C, t)).sum(-1))
    y = torch.stack(y, -1)
    y = y if D is None else y + D[:, None] * u
    return y if z is None else y * F.silu(z)


def valid_scan_1d(tensors, options):
    u, A, L = tensors['u'], tensors['A'], tensors['u'].shape[-1]
    (b, d, _), n = u.shape, A.shape[1]
    shapes = dict(delta=u.shape, A=(d, n), D=(d,), z=u.shape, delta_bias=(d,))
    return (
        all(tensors[name] is None or tensors[name].shape == shape for name, shape in shapes.items())
        and all(
            t.shape in ((d, n), (b, n, L)) or (t.shape == (b, t.shape[1], n, L) and d % t.shape[1] == 0)
            for t in (tensors['B'], tensors['C'])
        )
        and 0 not in (d, n, L)
    )


def conv_2d(draw):
    b, H, W, E = (size(draw, most) for most in (2, 4, 4, 9))
    values = randn(draw)
    bias = values(E) if draw(st.booleans()) else None
    tensors = dict(x=values(b, H, W, E), weight=values(E, 1, 3, 3), bias=bias)
    return conv_silu_2d, exact_conv_2d, tensors, {}, valid_conv_2d


def exact_conv_2d(x, weight, bias):
    return F.silu(F.conv2d(x.permute(0, 3, 1, 2), weight, bias, padding=1, groups=len(weight))).permute(0, 2, 3, 1)


def valid_conv_2d(tensors, options):
    x, weight, bias = tensors['x'], tensors['weight'], tensors['bias']
    E = x.shape[-1]
    return (
        weight.shape == (E, 1, 3, 3) and x.dim() == 4 and 0 not in x.shape[1:] and (bias is None or bias.shape == (E,))
    )


def conv_1d(draw):
    b, L, E, taps = (size(draw, most) for most in (2, 6, 9, 4))
    values, reverse = randn(draw), tuple(draw(st.lists(st.booleans(), min_size=1, max_size=2)))
    biases = values(len(reverse), E) if draw(st.booleans()) else None
    tensors = dict(x=values(b, L, E), weights=values(len(reverse), E, taps), biases=biases)
    return conv_silu_1d, exact_conv_1d, tensors, dict(reverse=reverse), valid_conv_1d


def exact_conv_1d(x, weights, biases, reverse):
    outs = []
    for k, ahead in enumerate(reverse):
        sequence = (x.flip(1) if ahead else x).transpose(1, 2)
        padded = F.pad(sequence, (weights.shape[-1] - 1, 0))
        z = F.conv1d(padded, weights[k, :, None], None if biases is None else biases[k], groups=x.shape[-1])
        outs.append((z.flip(2) if ahead else z).transpose(1, 2))
    return F.silu(torch.stack(outs, 1))


def valid_conv_1d(tensors, options):
    x, weights, biases, K = tensors['x'], tensors['weights'], tensors['biases'], len(options['reverse'])
    E = x.shape[-1]
    return (
        weights.shape == (K, E, weights.shape[2])
        and x.dim() == 3
        and 0 not in (*x.shape[1:], weights.shape[2])
        and (biases is None or biases.shape == (K, E))
    )
