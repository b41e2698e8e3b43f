"""The 2-D selective scan in ONNX: one `Scan` node per traversal, for maps of any size.

A runtime executes every node of a `Scan` body at every step. With one state per channel, everything that can be
computed for the whole map is outside the body, which is h = a * h + b. With N states this would take N times the memory
of the map, so the decay and the product with C are computed inside the body.
"""

# onnxscript compiles the functions with @script. Its operators accept Python numbers and lists without annotating them.
# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false, reportIndexIssue=false
# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false, reportReturnType=false

import functools
from collections.abc import Sequence

import torch
from onnxscript import FLOAT, graph, script
from onnxscript import opset18 as op

from ..ops.scan.scan_2d import selective_scan_2d  # noqa: F401  (defines the operator)
from ..ops.scan.traversal import COLUMN, is_reversed


@script(default_opset=op)
def _linear_scan(start, a, b, directions: Sequence[int], direction: Sequence[int]) -> FLOAT[...]:
    """Computes h_t = a_t * h_{t-1} + b_t along the first dimension of a and b."""

    @graph()
    def step(h, a, b):
        # In this order, because OpenVINO 2026.4 overwrites h too early in a graph of fixed size if h is on the left.
        after = op.Add(b, op.Mul(h, a))
        return after, op.Identity(after)

    _, h = op.Scan(
        start, a, b, body=step, num_scan_inputs=2, scan_input_directions=directions, scan_output_directions=direction
    )
    return h


@script(default_opset=op)
def _state_scan(start, A, delta, u, B, C, directions: Sequence[int], direction: Sequence[int]) -> FLOAT[...]:
    """Computes y_t = C_t h_t, h_t = exp(delta_t A) h_{t-1} + B_t u_t along the first dimension of delta, u, B and C.

    The state dimension precedes the channel dimension, so the inner loops of a runtime run over all channels.
    """

    @graph()
    def step(h, delta, u, B, C):
        after = op.Add(op.Mul(op.Exp(op.Mul(delta, A)), h), op.Mul(B, u))
        return after, op.MatMul(C, after)

    _, y = op.Scan(
        start,
        delta,
        u,
        B,
        C,
        body=step,
        num_scan_inputs=4,
        scan_input_directions=directions,
        scan_output_directions=direction,
    )
    return y


@script(default_opset=op)
def _split(t, widths) -> tuple[FLOAT[...], FLOAT[...], FLOAT[...]]:
    first, second, third = op.Split(t, widths, axis=-1)
    return first, second, third


def _selective_scan_2d(
    x: FLOAT,
    dt: FLOAT,
    A: FLOAT,
    B: FLOAT,
    C: FLOAT,
    D: FLOAT | None,
    dt_bias: FLOAT | None,
    dt_weight: FLOAT | None,
    codes: Sequence[int],
    dt_softplus: bool,
    out_dtype: int | None,
    backend: str = 'auto',
) -> FLOAT[...]:
    """The operator in ONNX. Shapes are as in `mmvmamba.ops.selective_scan_2d`; all tensors are float32."""
    if x.dtype.name != 'FLOAT':
        raise ValueError(f'x is {x.dtype.name}: export the scan in float32.')
    _, d, n = A.shape
    shared, widths = len(x.shape) == 4, [t.shape[-1] for t in (dt, B, C)]
    size = op.Shape(x) if shared else op.Gather(op.Shape(x), [0, 2, 3, 4])  # b, H, W, d
    state = op.Constant(value_ints=[d] if n == 1 else [n, d])
    start = op.Expand(0.0, op.Concat(op.Gather(size, [0]), state, axis=0))
    projected = op.Concat(dt, B, C, axis=-1)  # reordered together, because all three follow the same traversals
    maps = []
    for column in (0, COLUMN):
        walks = [k for k, code in enumerate(codes) if code & COLUMN == column]
        if not walks:
            continue
        x_sequence = _to_sequence(x, d, not shared, column)
        projected_sequence = _to_sequence(projected, sum(widths), True, column)
        ys = []
        for k in walks:
            u = x_sequence if shared else op.Gather(x_sequence, k, axis=0)
            dt_k, B_k, C_k = _split(op.Gather(projected_sequence, k, axis=0), op.Constant(value_ints=widths))
            delta = _time_step(dt_k, dt_weight, dt_bias, k, dt_softplus)
            A_k = op.Transpose(op.Gather(A, k, axis=0), perm=[1, 0])
            ys.append(_scan(start, u, delta, A_k, B_k, C_k, n, int(is_reversed(codes[k]))))
        maps.append(_to_map(_sum(ys), size, column))
    if D is not None and shared:
        maps.append(op.Mul(x, op.ReduceSum(D, [0], keepdims=0)))
    elif D is not None:
        maps.append(op.ReduceSum(op.Mul(x, op.Unsqueeze(D, [1, 2])), [1], keepdims=0))
    return _sum(maps)


def _time_step(dt, dt_weight, dt_bias, k: int, softplus: bool):
    """The step size delta: (L, b, d or r) -> (L, b, d)."""
    if dt_weight is not None:
        dt = op.MatMul(dt, op.Transpose(op.Gather(dt_weight, k, axis=0), perm=[1, 0]))
    if dt_bias is not None:
        dt = op.Add(dt, op.Gather(dt_bias, k, axis=0))
    return op.Softplus(dt) if softplus else dt


def _scan(start, u, delta, A, B, C, n: int, reverse: int):
    """The scan of one traversal: u and delta (L, b, d), A (n, d), B and C (L, b, n) -> (L, b, d)."""
    inputs = op.Mul(delta, u)
    if n == 1:
        decay = op.Exp(op.Mul(delta, A))
        h = _linear_scan(start, decay, op.Mul(inputs, B), directions=[reverse] * 2, direction=[reverse])
        return op.Mul(h, C)
    delta, inputs, B, C = (op.Unsqueeze(t, [axis]) for t, axis in ((delta, 2), (inputs, 2), (B, 3), (C, 2)))
    y = _state_scan(start, A, delta, inputs, B, C, directions=[reverse] * 4, direction=[reverse])
    return op.Squeeze(y, [2])


def _to_sequence(t, channels: int, has_traversals: bool, column: int):
    """(b, H, W, c) -> (L, b, c), or (b, K, H, W, c) -> (K, L, b, c), row-major or column-major."""
    if column:
        t = op.Transpose(t, perm=[0, 1, 3, 2, 4] if has_traversals else [0, 2, 1, 3])
    t = op.Reshape(t, [0, 0, -1, channels] if has_traversals else [0, -1, channels])  # 0 copies the dimension
    return op.Transpose(t, perm=[1, 2, 0, 3] if has_traversals else [1, 0, 2])


def _to_map(y, size, column: int):
    """(L, b, d) -> (b, H, W, d): the inverse of `_to_sequence`."""
    y = op.Transpose(y, perm=[1, 0, 2])
    if not column:
        return op.Reshape(y, size)
    return op.Transpose(op.Reshape(y, op.Gather(size, [0, 2, 1, 3])), perm=[0, 2, 1, 3])


def _sum(terms: list):
    return functools.reduce(op.Add, terms)


TRANSLATIONS = {torch.ops.mmvmamba.selective_scan_2d.default: _selective_scan_2d}
