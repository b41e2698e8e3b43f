"""Runs the operators for onnxruntime on random shapes: each call returns the right result or raises a one-line error.

python -m tests.test_ort_operators.fuzz --cases 2000 --seed 7 [--library LIBRARY]
"""

import argparse
import random
import re
from collections import Counter

import torch

from mmvmamba.ops.conv import native as native_conv
from mmvmamba.ops.scan import native as native_scan
from mmvmamba.ops.scan.scan_inputs import ScanInputs
from tests.test_ops.cases import scan_inputs

from .rowwise import agrees, expected_gelu, expected_norm
from .single_node import CONV, GELU, NORM, SCAN, convolve, gelu, norm, scan, scan_tensors

ERROR = re.compile(r'mmvmamba::(SelectiveScan2D|ConvSiLU|BiasGelu|AddNorm): (the attribute )?(\w+) [^\n]+\.$')


def scan_case(draw):
    """Returns a call of the operator, the names of its inputs, its tensors, and the expected result."""
    codes = [draw.randrange(4) for _ in range(draw.randint(1, 4))]
    b, H, W, d, n = draw.choice((0, 1, 1, 2, 3)), *(draw.randint(1, high) for high in (9, 9, 40, 5))
    named = scan_inputs(
        b,
        H,
        W,
        d,
        n,
        len(codes),
        rank=draw.choice((None, 1, 3, 6)),
        per_traversal=draw.random() < 0.5,
        D=draw.random() < 0.5,
        bias=draw.random() < 0.5,
        dtype=torch.float32,
        seed=draw.randrange(1000),
    )
    inputs = [named[name] for name in ('x', 'dt', 'A', 'B', 'C', 'D', 'dt_bias', 'dt_weight')]
    expected = native_scan.selective_scan_2d(ScanInputs(*inputs, codes, True), torch.float32)
    tensors = scan_tensors(*inputs, side_by_side=draw.random() < 0.5)
    return lambda tensors, **options: scan(tensors, codes, True, **options), SCAN[1], tensors, expected


def conv_case(draw):
    columns = draw.randint(1, 5)
    left = [draw.randrange(columns) for _ in range(draw.randint(1, 3))]
    b, H, W, d, rows = draw.choice((0, 1, 2)), *(draw.randint(1, high) for high in (12, 12, 40, 4))
    bias = torch.randn(len(left), d) if draw.random() < 0.5 else None
    tensors = [torch.randn(b, H, W, d), torch.randn(len(left), d, rows, columns), bias]
    expected = native_conv.conv_silu(*tensors, left) if b else torch.empty(0, len(left), H, W, d)
    return lambda tensors, **options: convolve(tensors, left, **options), CONV[1], tensors, expected


def rows(draw):
    """Returns a map of 1 to 4 dimensions."""
    return torch.randn([draw.choice((0, 1, 2, 9)) for _ in range(draw.randrange(4))] + [draw.randint(1, 70)])


def gelu_case(draw):
    x = rows(draw)
    tensors = [x, torch.randn(x.shape[-1])]
    return gelu, GELU[1], tensors, expected_gelu(*tensors)


def norm_case(draw):
    x, rms = rows(draw), draw.random() < 0.5
    vectors = [torch.randn(x.shape[-1]) if i == 0 or draw.random() < 0.5 else None for i in range(3)]
    residual = torch.randn_like(x) if draw.random() < 0.5 else None
    tensors = [x, *vectors[:2], residual, vectors[2]]
    return lambda tensors, **options: norm(tensors, rms, **options), NORM[1], tensors, expected_norm(*tensors, rms)


def damage(draw, name, tensor):
    """Returns the tensor with a shape that no valid call has, for any shapes of the other inputs."""
    shape = list(tensor.shape)
    # the batch and the size of x determine those of the other inputs, and the kernel size is free
    axes = {'x': [len(shape) - 1], 'weight': range(min(2, len(shape)))}.get(name, range(len(shape)))
    axis = draw.choice(list(axes))
    change = draw.choice(('remove', 'add', 'larger', 'zero'))
    if change == 'remove':  # without its last dimension, no map has a valid shape for any operator
        shape = [] if name == 'x' else shape[:-1]
    elif change == 'add':
        shape = [1, 1, 1, 1, 1, *shape]
    elif change == 'larger' or not shape[axis]:  # the batch of an empty input is zero already
        shape[axis] += draw.randint(1, 3)
    else:
        shape[axis] = 0
    return torch.zeros(shape)


def run_case(draw, threads=1, library=None):
    """Returns 'right' or 'refused'.

    Raises:
        AssertionError: a result or an error message is wrong.
    """
    call, names, tensors, expected = draw.choice((scan_case, conv_case, gelu_case, norm_case))(draw)
    if draw.random() < 0.4:
        y = call(tensors, threads=threads, library=library)
        assert agrees(y, expected), f'{[None if t is None else tuple(t.shape) for t in tensors]}'
        return 'right'
    damaged = draw.choice([name for name, t in zip(names, tensors) if t is not None])
    tensors = [damage(draw, name, t) if name == damaged else t for name, t in zip(names, tensors)]
    shapes = f'{damaged} of {[None if t is None else tuple(t.shape) for t in tensors]}'
    try:
        call(tensors, threads=threads, library=library)
    except Exception as error:
        message = str(error).strip()
    else:
        raise AssertionError(f'{shapes} was accepted')
    match = ERROR.search(message)
    assert match and match[3] in names, f'{shapes}: {message}'
    return 'refused'


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--cases', type=int, default=500)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--threads', type=int, default=2)
    parser.add_argument('--library')
    args = parser.parse_args()
    draw = random.Random(args.seed)
    print(dict(Counter(run_case(draw, args.threads, args.library) for _ in range(args.cases))))


if __name__ == '__main__':
    main()
