"""Device functions of the scan kernels: program indices, addresses along a traversal, and the arithmetic of a step.

Prefixes: p_ pointer, s_ stride, m_ mask, o_ offset. An oriented map is a (pointer, stride) pair, see `oriented_ptr`.
"""

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)  # exp(x) = exp2(x LOG2E)

# Triton compiles no specialised variants for the values of these arguments.
UNSPECIALISED = ['batch', 'groups', 'traversals', 'plan', 'height', 'width', 'chunk', 'chunks', 'one_opaque']


@triton.jit
def code_of(plan, k):
    """Returns the code of traversal k. `plan` has 4 bits per traversal: two for the code, then two for the group."""
    return (plan >> (4 * k)) & 3


@triton.jit
def group_of(plan, k):
    return (plan >> (4 * k + 2)) & 3


@triton.jit
def program(channels, chunks, grid_k, BD: tl.constexpr):
    """Returns this program's (block of BD channels, chunk, k, image); k < grid_k indexes groups or traversals."""
    pid = tl.program_id(0)
    blocks = tl.cdiv(channels, BD)
    block = pid % blocks
    pid //= blocks
    c = pid % chunks
    pid //= chunks
    return block, c, pid % grid_k, (pid // grid_k).to(tl.int64)


@triton.jit
def states_at(row, n, d, states, channels, one_opaque):
    """Returns the offsets of a (BD, N) tile in an array (row, states, channels).

    `one_opaque` is 1, but the compiler must not know that. Otherwise it chooses a layout with wide loads along the
    channels, which distributes the states over the lanes.
    """
    return (row * states + n[None, :]) * channels + d[:, None] * one_opaque


@triton.jit
def row_of(pointer, k, d, channels, m_d, BD: tl.constexpr):
    """Loads row k of an array (.., channels). Returns zeros if the pointer is None."""
    row = tl.zeros([BD], tl.float32)
    if pointer is not None:
        row += tl.load(pointer + k * channels + d, mask=m_d, other=0.0)
    return row


@triton.jit
def position(t, code, height, width, WIDE: tl.constexpr):
    """Returns the row-major index of step t in a row traversal (bit 0 of `code` is 0) or a column traversal.

    The index is multiplied by strides, and a 64-bit product costs four times as much as a 32-bit one. Therefore the
    index has 64 bits only if WIDE is set.
    """
    pos = tl.where((code & 1) == 1, (t % height) * width + t // height, t)
    return pos.to(tl.int64) if WIDE else pos


@triton.jit
def stride_t_of(code, width):
    """Returns the increment for `advance` and `retreat`: 1 along rows, the width along columns."""
    return tl.where((code & 1) == 1, width, 1)


@triton.jit
def advance(pos, stride_t, length):
    """Returns the index of the next step.

    No division is needed: at the end of a column pos + width >= length, and the next column starts length - 1 earlier.
    """
    pos += stride_t
    return tl.where(pos < length, pos, pos - (length - 1))


@triton.jit
def retreat(pos, stride_t, length):
    """Returns the index of the previous step."""
    pos -= stride_t
    return tl.where(pos >= 0, pos, pos + (length - 1))


@triton.jit
def oriented_ptr(pointer, stride, code, length):
    """Returns a (pointer, stride) pair that addresses positions in natural order, or in reverse if `code` is reversed.

    Where a traversal reads position p, its reverse reads position length - 1 - p, so mirrored addresses are sufficient.
    """
    backwards = code >= 2
    last = (length - 1).to(tl.int64) * stride
    return pointer + tl.where(backwards, last, 0), tl.where(backwards, -stride, stride)


@triton.jit
def at(faced, pos):
    return faced[0] + pos * faced[1]


@triton.jit
def read(faced, pos, mask):
    return tl.load(at(faced, pos), mask=mask, other=0.0)


@triton.jit
def softplus(z):
    """Computes log(1 + exp(z)) with a relative error of 1e-7, also for tiny results. NaN and infinity propagate.

    The result is max(z, 0) + u P(u) with u = exp(-|z|), where P(u) approximates log(1 + u) / u on [0, 1]
    (benchmarks/polynomials.py). For z > 20 it is z.
    """
    u = tl.exp2(tl.abs(z) * -LOG2E)
    p = u * 0.005365422461181879 - 0.030068300664424896
    p = p * u + 0.07920882850885391
    p = p * u - 0.13754187524318695
    p = p * u + 0.1915384829044342
    p = p * u - 0.24857217073440552
    p = p * u + 0.33321329951286316
    p = p * u - 0.49999648332595825
    p = p * u + 1.0
    return tl.maximum(z, 0.0) + u * p


@triton.jit
def sigmoid(z):
    """Computes the derivative of softplus."""
    u = tl.exp2(tl.abs(z) * -LOG2E)
    return tl.where(z >= 0, 1.0, u) / (1.0 + u)


@triton.jit
def step_size(z, bias, SOFTPLUS: tl.constexpr):
    """Computes delta from the loaded dt."""
    z = z.to(tl.float32) + bias
    return softplus(z) if SOFTPLUS else z


@triton.jit
def next_state(h, decay, delta, x, B):
    """Computes decay h + delta B x for (BD, N) states."""
    return decay * h + (delta * x.to(tl.float32))[:, None] * B.to(tl.float32)[None, :]
