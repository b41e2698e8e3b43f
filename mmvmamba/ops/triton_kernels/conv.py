"""The kernels of the depthwise convolution with SiLU.

One program processes a block of BP positions, in row-major order, and BD channels of one image. Overlapping inputs of
neighbouring positions come from the caches. Prefixes are those of device_functions.py.
"""

import triton
import triton.language as tl

from .device_functions import LOG2E

# Triton compiles no specialised variants for the values of these arguments.
UNSPECIALISED = ['kernels', 'lefts', 'height', 'width']


@triton.jit
def left_of(lefts, k):
    """Returns the left padding of kernel k in columns. `lefts` has 4 bits per kernel."""
    return ((lefts >> (4 * k)) & 15).to(tl.int32)


@triton.jit
def block_at(pid, channels, length, BP: tl.constexpr, BD: tl.constexpr):
    """Returns (positions, channels, rest), where `rest` is the part of `pid` that indexes kernels and images."""
    blocks = tl.cdiv(channels, BD)
    d = pid % blocks * BD + tl.arange(0, BD)
    pid //= blocks
    pieces = tl.cdiv(length, BP)
    return pid % pieces * BP + tl.arange(0, BP), d, pid // pieces


@triton.jit
def read_tap(p_map, s_h, s_w, h, w, d, height, width, channels, WIDE: tl.constexpr):
    """Loads a (BP, BD) tile of a map at rows h and columns w in float32, with zero padding."""
    inside = (h >= 0) & (h < height) & (w >= 0) & (w < width)
    h = h.to(tl.int64) if WIDE else h
    w = w.to(tl.int64) if WIDE else w
    mask = inside[:, None] & (d < channels)[None, :]
    return tl.load(p_map + (h * s_h + w * s_w)[:, None] + d[None, :], mask=mask, other=0.0).to(tl.float32)


@triton.jit
def before_silu(
    p_x, s_x_h, s_x_w, p_weight, p_bias, k, h, w, d, height, width, channels, WIDE: tl.constexpr, ROWS, COLUMNS
):
    """Computes z of kernel k. h and w are the rows and columns of the first tap."""
    m_d = d < channels
    z = tl.zeros([h.shape[0], d.shape[0]], tl.float32)
    if p_bias is not None:
        z += tl.load(p_bias + k * channels + d, mask=m_d, other=0.0)[None, :]
    for i in tl.static_range(ROWS):
        for j in tl.static_range(COLUMNS):
            weight = tl.load(p_weight + (k * ROWS * COLUMNS + i * COLUMNS + j) * channels + d, mask=m_d, other=0.0)
            z += weight[None, :] * read_tap(p_x, s_x_h, s_x_w, h + i, w + j, d, height, width, channels, WIDE)
    return z


@triton.jit(do_not_specialize=UNSPECIALISED)
def convolve(
    p_x, p_weight, p_bias, p_y,
    s_x_b, s_x_h, s_x_w,
    kernels, lefts, height, width, channels,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, WIDE: tl.constexpr, BP: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """Computes y[b, k] = SiLU(z_k). y is (b, K, H, W, d), weight (K, ROWS, COLUMNS, d), bias (K, d) or None."""
    length = height * width
    p, d, rest = block_at(tl.program_id(0), channels, length, BP, BD)
    k = rest % kernels
    b = (rest // kernels).to(tl.int64)
    h = p // width - ROWS // 2
    w = p % width - left_of(lefts, k)
    z = before_silu(
        p_x + b * s_x_b, s_x_h, s_x_w, p_weight, p_bias, k, h, w, d, height, width, channels, WIDE, ROWS, COLUMNS
    )
    y = z / (1.0 + tl.exp2(z * -LOG2E))
    at = ((b * kernels + k) * length + p)[:, None] * channels + d[None, :]
    tl.store(p_y + at, y.to(p_y.dtype.element_ty), mask=(p < length)[:, None] & (d < channels)[None, :])


@triton.jit(do_not_specialize=UNSPECIALISED)
def convolve_back(
    p_x, p_weight, p_bias, p_grad_y, p_dz, p_parts,
    s_x_b, s_x_h, s_x_w, s_grad_y_b, s_grad_y_k, s_grad_y_h, s_grad_y_w,
    kernels, lefts, height, width, channels,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, WIDE: tl.constexpr, BP: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """Computes dz = dy dSiLU/dz, (b, K, H, W, d) in float32, and partial sums of the weight and bias gradients.

    p_parts is (b, blocks of positions, K, ROWS * COLUMNS + 1, d), where the last row is the bias. The partial sums are
    added in a fixed order after the kernel.
    """
    length = height * width
    p, d, rest = block_at(tl.program_id(0), channels, length, BP, BD)
    k = rest % kernels
    b = (rest // kernels).to(tl.int64)
    row = p // width
    column = p % width
    h = row - ROWS // 2
    w = column - left_of(lefts, k)
    p_x += b * s_x_b
    z = before_silu(p_x, s_x_h, s_x_w, p_weight, p_bias, k, h, w, d, height, width, channels, WIDE, ROWS, COLUMNS)
    y = 1.0 / (1.0 + tl.exp2(z * -LOG2E))
    p_grad_y += b * s_grad_y_b + k.to(tl.int64) * s_grad_y_k
    grad = read_tap(p_grad_y, s_grad_y_h, s_grad_y_w, row, column, d, height, width, channels, WIDE)
    valid = (p < length)[:, None] & (d < channels)[None, :]
    dz = tl.where(valid, grad * (y * (1.0 + z * (1.0 - y))), 0.0)
    tl.store(p_dz + ((b * kernels + k) * length + p)[:, None] * channels + d[None, :], dz, mask=valid)

    m_d = d < channels
    pieces = tl.cdiv(length, BP)
    piece = tl.program_id(0) // tl.cdiv(channels, BD) % pieces
    part = p_parts + ((b * pieces + piece) * kernels + k) * (ROWS * COLUMNS + 1) * channels + d
    for i in tl.static_range(ROWS):
        for j in tl.static_range(COLUMNS):
            x = read_tap(p_x, s_x_h, s_x_w, h + i, w + j, d, height, width, channels, WIDE)
            tl.store(part + (i * COLUMNS + j) * channels, tl.sum(dz * x, 0), mask=m_d)
    tl.store(part + ROWS * COLUMNS * channels, tl.sum(dz, 0), mask=m_d)


@triton.jit(do_not_specialize=UNSPECIALISED)
def spread_back(
    p_dz, p_weight, p_dx,
    kernels, lefts, height, width, channels,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, WIDE: tl.constexpr, BP: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """Computes dx, (b, H, W, d): the sum of weight * dz over all kernels and all outputs that read a position."""
    length = height * width
    p, d, rest = block_at(tl.program_id(0), channels, length, BP, BD)
    b = rest.to(tl.int64)
    m_d = d < channels
    dx = tl.zeros([BP, BD], tl.float32)
    for k in range(0, kernels):
        dz = p_dz + (b * kernels + k) * length * channels
        h = p // width + ROWS // 2
        w = p % width + left_of(lefts, k)
        for i in tl.static_range(ROWS):
            for j in tl.static_range(COLUMNS):
                weight = tl.load(p_weight + (k * ROWS * COLUMNS + i * COLUMNS + j) * channels + d, mask=m_d, other=0.0)
                dx += weight[None, :] * read_tap(
                    dz, width * channels, channels, h - i, w - j, d, height, width, channels, WIDE
                )
    at = (b * length + p)[:, None] * channels + d[None, :]
    tl.store(p_dx + at, dx.to(p_dx.dtype.element_ty), mask=(p < length)[:, None] & m_d[None, :])
