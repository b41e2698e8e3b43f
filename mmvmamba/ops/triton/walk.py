"""What the kernels share: how a traversal walks a map, and the two transcendentals of the scan."""

import triton
import triton.language as tl


@triton.jit
def position(t, code, height, width, WIDE: tl.constexpr):
    """Row-major index of step t of a row traversal (bit 0 of `code` clear) or a column traversal.

    It is multiplied by strides, and 64-bit products cost four times as much: it has 64 bits only if WIDE says so.
    """
    pos = tl.where((code & 1) == 1, (t % height) * width + t // height, t)
    return pos.to(tl.int64) if WIDE else pos


@triton.jit
def advance(pos, pace, length):
    """The index one step on: `pace` is 1 along rows, the width along columns.

    This needs no division: at a column's end pos + width >= length, and the next one starts length - 1 before that.
    """
    pos += pace
    return tl.where(pos < length, pos, pos - (length - 1))


@triton.jit
def retreat(pos, pace, length):
    """The index one step back."""
    pos -= pace
    return tl.where(pos >= 0, pos, pos + (length - 1))


@triton.jit
def facing(pointer, stride, code, length):
    """The pointer and stride with which index 0, 1, ... reads positions in order, or backwards if `code` is reversed.

    A reversed traversal visits length - 1 - p where the plain one visits p, so to reverse one is to mirror the memory.
    """
    backwards = code >= 2
    last = (length - 1).to(tl.int64) * stride
    return pointer + tl.where(backwards, last, 0), tl.where(backwards, -stride, stride)


@triton.jit
def softplus(z):
    """log(1 + exp(z)) to 1e-7 relative, also where it is tiny; for z > 20 it is z. NaN and Inf pass through.

    max(z, 0) + u P(u) with u = exp(-|z|) and P(u) close to log(1 + u) / u on [0, 1].
    """
    u = tl.exp2(tl.abs(z) * -1.4426950408889634)
    p = u * 0.005232624243944883 - 0.029504956677556038
    p = p * u + 0.07822549343109131
    p = p * u - 0.1366320699453354
    p = p * u + 0.1910598874092102
    p = p * u - 0.2484297752380371
    p = p * u + 0.3331909477710724
    p = p * u - 0.4999949336051941
    p = p * u + 0.9999999403953552
    return tl.maximum(z, 0.0) + u * p


@triton.jit
def sigmoid(z):
    """The derivative of softplus."""
    u = tl.exp2(tl.abs(z) * -1.4426950408889634)
    return tl.where(z >= 0, 1.0, u) / (1.0 + u)


@triton.jit
def step_size(z, bias, SOFTPLUS: tl.constexpr):
    """delta, from dt as it was loaded."""
    z = z.to(tl.float32) + bias
    return softplus(z) if SOFTPLUS else z


@triton.jit
def next_state(h, decay, delta, x, B):
    """decay h + delta B x, of (BD, N) states."""
    return decay * h + (delta * x.to(tl.float32))[:, None] * B.to(tl.float32)[None, :]
