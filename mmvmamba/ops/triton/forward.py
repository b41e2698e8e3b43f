"""The forward kernels: a serial sweep in time, and the two that let all chunks of a long sequence start at once."""

import triton
import triton.language as tl

from .walk import advance, facing, next_state, position, step_size

_SIZES = ['batch', 'groups', 'traversals', 'plan', 'height', 'width', 'chunk', 'chunks', 'unit']


@triton.jit
def scan_steps(
    h,
    pos,
    pace,
    length,
    a,
    bias,
    skip,
    x,
    x_p,
    dt,
    dt_p,
    B,
    B_p,
    C,
    C_p,
    y,
    y_p,
    dm,
    nm,
    add,
    SOFTPLUS: tl.constexpr,
    U: tl.constexpr,
):
    """U steps of `sweep`: all loads, then all arithmetic and stores."""
    x_t = ()
    z_t = ()
    B_t = ()
    C_t = ()
    y_at = ()
    y_t = ()
    for j in tl.static_range(U):
        x_t = x_t + (tl.load(x + pos * x_p, mask=dm, other=0.0),)
        z_t = z_t + (tl.load(dt + pos * dt_p, mask=dm, other=0.0),)
        B_t = B_t + (tl.load(B + pos * B_p, mask=nm, other=0.0),)
        C_t = C_t + (tl.load(C + pos * C_p, mask=nm, other=0.0),)
        y_at = y_at + (y + pos * y_p,)
        y_t = y_t + (tl.load(y_at[j], mask=add, other=0.0),)
        pos = advance(pos, pace, length)
    for j in tl.static_range(U):
        delta = step_size(z_t[j], bias, SOFTPLUS)
        h = next_state(h, tl.exp2(delta[:, None] * a), delta, x_t[j], B_t[j])
        out = tl.sum(h * C_t[j].to(tl.float32)[None, :], 1) + skip * x_t[j].to(tl.float32) + y_t[j].to(tl.float32)
        tl.store(y_at[j], out.to(y.dtype.element_ty), mask=dm)
    return h, pos


@triton.jit(do_not_specialize=_SIZES)
def sweep(
    x,
    dt,
    A,
    B,
    C,
    D,
    dt_bias,
    start,
    y,
    xb,
    xk,
    xp,
    tb,
    tk,
    tp,
    Bb,
    Bk,
    Bp,
    Cb,
    Ck,
    Cp,
    batch,
    groups,
    traversals,
    plan,
    height,
    width,
    channels,
    states,
    chunk,
    chunks,
    unit,
    SOFTPLUS: tl.constexpr,
    WIDE: tl.constexpr,
    N: tl.constexpr,
    BD: tl.constexpr,
    U: tl.constexpr,
):
    """y[group, b] = the sum over the group's traversals of <C_t, h_t> + D x_t, for one chunk of steps and BD channels.

    One program is one warp and one lane is one channel. The states h of its channels are a (BD, N) tile, so every lane
    holds all N states of a channel in registers, and neither the recurrence nor the sum over states leaves the lane.
    Time is a plain loop. A step is too short to hide a load, so U steps are loaded into tuples before the first of them
    is computed; written step by step, no load would move past the store before it. Odd steps at the end go one by one.

    The group's traversals (a row traversal and its reverse, say) run one after the other over the same positions: the
    first writes y, the others add to what the same lane has written, so the sum has one order and needs no atomics.
    Chunks are cut in natural order, which makes them the same positions for a traversal and its reverse. `start` holds
    the state at which each chunk starts, (b, K, chunks, N, d); None means zero, for a sequence in one chunk.

    Maps are (b, K, L, d) with strides (b, k, p), B and C (b, K, L, n); A (K, n, d), D and dt_bias (K, d) are contiguous
    and y is (groups, b, L, d). plan: 4 bits a traversal, two for its code and two for its group. unit is 1, which the
    compiler must not know: it would lay tiles out for wide loads of A, and spread the states over the lanes for them.
    """
    pid = tl.program_id(0)
    blocks = tl.cdiv(channels, BD)
    d = (pid % blocks) * BD + tl.arange(0, BD)
    pid //= blocks
    c = pid % chunks
    pid //= chunks
    group = pid % groups
    b = (pid // groups).to(tl.int64)
    n = tl.arange(0, N)
    dm = d < channels
    nm = n < states
    tile = nm[None, :] & dm[:, None]
    length = height * width
    begin = c * chunk
    end = tl.minimum(begin + chunk, length)
    even = (end - begin) // U * U
    y += (group * batch + b) * length * channels + d

    first = 1
    for k in range(0, traversals):
        entry = (plan >> (4 * k)) & 15
        if (entry >> 2) == group:
            code = entry & 3
            a = tl.load(A + (k * states + n[None, :]) * channels + d[:, None] * unit, mask=tile, other=0.0)
            a *= 1.4426950408889634  # so that exp(delta A) is exp2(delta a)
            bias = tl.zeros([BD], tl.float32)
            skip = tl.zeros([BD], tl.float32)
            if dt_bias is not None:
                bias += tl.load(dt_bias + k * channels + d, mask=dm, other=0.0)
            if D is not None:
                skip += tl.load(D + k * channels + d, mask=dm, other=0.0)
            h = tl.zeros([BD, N], tl.float32)
            if start is not None:
                edge = ((b * traversals + k) * chunks + c) * states + n
                h += tl.load(start + edge[None, :] * channels + d[:, None] * unit, mask=tile, other=0.0)
            k64 = tl.cast(k, tl.int64)
            x_k, x_p = facing(x + b * xb + k64 * xk + d, xp, code, length)
            dt_k, dt_p = facing(dt + b * tb + k64 * tk + d, tp, code, length)
            B_k, B_p = facing(B + b * Bb + k64 * Bk + n, Bp, code, length)
            C_k, C_p = facing(C + b * Cb + k64 * Ck + n, Cp, code, length)
            y_k, y_p = facing(y, channels, code, length)
            add = dm & (first == 0)
            pace = tl.where((code & 1) == 1, width, 1)
            pos = position(tl.where(code >= 2, length - end, begin), code, height, width, WIDE)
            for _ in range(0, even, U):
                h, pos = scan_steps(
                    h,
                    pos,
                    pace,
                    length,
                    a,
                    bias,
                    skip,
                    x_k,
                    x_p,
                    dt_k,
                    dt_p,
                    B_k,
                    B_p,
                    C_k,
                    C_p,
                    y_k,
                    y_p,
                    dm,
                    nm,
                    add,
                    SOFTPLUS,
                    U,
                )
            for _ in range(even, end - begin):
                h, pos = scan_steps(
                    h,
                    pos,
                    pace,
                    length,
                    a,
                    bias,
                    skip,
                    x_k,
                    x_p,
                    dt_k,
                    dt_p,
                    B_k,
                    B_p,
                    C_k,
                    C_p,
                    y_k,
                    y_p,
                    dm,
                    nm,
                    add,
                    SOFTPLUS,
                    1,
                )
            first = 0
            tl.debug_barrier()  # the next traversal reads y


@triton.jit
def chunk_steps(
    h,
    g,
    since,
    total,
    pos,
    pace,
    length,
    a,
    bias,
    x,
    x_p,
    dt,
    dt_p,
    B,
    B_p,
    C,
    C_p,
    grad,
    grad_p,
    dm,
    nm,
    ADJOINT: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    U: tl.constexpr,
):
    """U steps of `chunk_ends`."""
    x_t = ()
    z_t = ()
    B_t = ()
    C_t = ()
    g_t = ()
    for _ in tl.static_range(U):
        x_t = x_t + (tl.load(x + pos * x_p, mask=dm, other=0.0),)
        z_t = z_t + (tl.load(dt + pos * dt_p, mask=dm, other=0.0),)
        B_t = B_t + (tl.load(B + pos * B_p, mask=nm, other=0.0),)
        if ADJOINT:
            C_t = C_t + (tl.load(C + pos * C_p, mask=nm, other=0.0),)
            g_t = g_t + (tl.load(grad + pos * grad_p, mask=dm, other=0.0),)
        pos = advance(pos, pace, length)
    for j in tl.static_range(U):
        delta = step_size(z_t[j], bias, SOFTPLUS)
        decay = tl.exp2(delta[:, None] * a)
        h = next_state(h, decay, delta, x_t[j], B_t[j])
        total += delta
        if ADJOINT:
            since = since * decay
            g += since * g_t[j].to(tl.float32)[:, None] * C_t[j].to(tl.float32)[None, :]
    return h, g, since, total, pos


@triton.jit(do_not_specialize=_SIZES)
def chunk_ends(
    x,
    dt,
    A,
    B,
    C,
    dt_bias,
    grad_y,
    end_state,
    end_grad,
    decay,
    xb,
    xk,
    xp,
    tb,
    tk,
    tp,
    Bb,
    Bk,
    Bp,
    Cb,
    Ck,
    Cp,
    gb,
    gp,
    traversals,
    plan,
    height,
    width,
    channels,
    states,
    chunk,
    chunks,
    unit,
    ADJOINT: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    WIDE: tl.constexpr,
    N: tl.constexpr,
    BD: tl.constexpr,
    U: tl.constexpr,
):
    """What one chunk hands to its neighbours if it starts from zero.

    end_state (b, K, chunks, N, d): the state after it; decay (b, K, chunks, d): the sum of its step sizes, of which
    exp(A decay) is the decay of a state across it. ADJOINT adds end_grad, what its outputs send to the state before it:
    sum_t exp(A (delta_1 + ... + delta_t)) C_t grad_y_t, which needs no backward walk.
    """
    pid = tl.program_id(0)
    blocks = tl.cdiv(channels, BD)
    d = (pid % blocks) * BD + tl.arange(0, BD)
    pid //= blocks
    c = pid % chunks
    pid //= chunks
    k = pid % traversals
    k64 = tl.cast(k, tl.int64)
    b = (pid // traversals).to(tl.int64)
    n = tl.arange(0, N)
    dm = d < channels
    nm = n < states
    tile = nm[None, :] & dm[:, None]
    length = height * width
    begin = c * chunk
    end = tl.minimum(begin + chunk, length)
    even = (end - begin) // U * U
    code = ((plan >> (4 * k)) & 3).to(tl.int32)

    a = tl.load(A + (k * states + n[None, :]) * channels + d[:, None] * unit, mask=tile, other=0.0) * 1.4426950408889634
    bias = tl.zeros([BD], tl.float32)
    if dt_bias is not None:
        bias += tl.load(dt_bias + k * channels + d, mask=dm, other=0.0)
    x, x_p = facing(x + b * xb + k64 * xk + d, xp, code, length)
    dt, dt_p = facing(dt + b * tb + k64 * tk + d, tp, code, length)
    B, B_p = facing(B + b * Bb + k64 * Bk + n, Bp, code, length)
    C, C_p = facing(C + b * Cb + k64 * Ck + n, Cp, code, length)
    if ADJOINT:
        grad, grad_p = facing(grad_y + b * gb + d, gp, code, length)
    else:
        grad, grad_p = x, x_p  # not read
    h = tl.zeros([BD, N], tl.float32)
    g = tl.zeros([BD, N], tl.float32)
    since = tl.full([BD, N], 1.0, tl.float32)
    total = tl.zeros([BD], tl.float32)
    pace = tl.where((code & 1) == 1, width, 1)
    pos = position(tl.where(code >= 2, length - end, begin), code, height, width, WIDE)
    for _ in range(0, even, U):
        h, g, since, total, pos = chunk_steps(
            h,
            g,
            since,
            total,
            pos,
            pace,
            length,
            a,
            bias,
            x,
            x_p,
            dt,
            dt_p,
            B,
            B_p,
            C,
            C_p,
            grad,
            grad_p,
            dm,
            nm,
            ADJOINT,
            SOFTPLUS,
            U,
        )
    for _ in range(even, end - begin):
        h, g, since, total, pos = chunk_steps(
            h,
            g,
            since,
            total,
            pos,
            pace,
            length,
            a,
            bias,
            x,
            x_p,
            dt,
            dt_p,
            B,
            B_p,
            C,
            C_p,
            grad,
            grad_p,
            dm,
            nm,
            ADJOINT,
            SOFTPLUS,
            1,
        )
    row = (b * traversals + k) * chunks + c
    tl.store(decay + row * channels + d, total, mask=dm)
    edge = (row * states + n[None, :]) * channels + d[:, None] * unit
    tl.store(end_state + edge, h, mask=tile)
    if ADJOINT:
        tl.store(end_grad + edge, g, mask=tile)


@triton.jit(do_not_specialize=_SIZES)
def prefix(
    A,
    decay,
    state,
    traversals,
    plan,
    channels,
    states,
    chunks,
    ADJOINT: tl.constexpr,
    BD: tl.constexpr,
    U: tl.constexpr,
):
    """Replaces, in place, what each chunk ends with by what it starts with: carry <- exp(A decay) carry + end.

    The walk over the chunks runs as the traversal does, and the other way round for gradients (ADJOINT). One program
    takes one state of BD channels.
    """
    pid = tl.program_id(0)
    blocks = tl.cdiv(channels, BD)
    d = (pid % blocks) * BD + tl.arange(0, BD)
    pid //= blocks
    n = pid % states
    k = (pid // states) % traversals
    row = (pid // states).to(tl.int64) * chunks
    dm = d < channels
    backwards = (((plan >> (4 * k)) & 2) != 0) != ADJOINT
    a = tl.load(A + (k * states + n) * channels + d, mask=dm, other=0.0) * 1.4426950408889634
    carry = tl.zeros([BD], tl.float32)
    for i in range(0, chunks, U):
        at = ()
        delta = ()
        end = ()
        for j in tl.static_range(U):
            c = row + tl.where(backwards, chunks - 1 - i - j, i + j)
            live = dm & (i + j < chunks)
            at = at + (state + (c * states + n) * channels + d,)
            delta = delta + (tl.load(decay + c * channels + d, mask=live, other=0.0),)
            end = end + (tl.load(at[j], mask=live, other=0.0),)
        for j in tl.static_range(U):
            tl.store(at[j], carry, mask=dm & (i + j < chunks))
            carry = tl.exp2(delta[j] * a) * carry + end[j]


@triton.jit(do_not_specialize=['parts', 'size'])
def merge(terms, out, parts, size, BLOCK: tl.constexpr):
    """out = the sum of `parts` float32 arrays of `size` elements, in their order, rounded once to the dtype of out."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], tl.float32)
    for _ in range(0, parts):
        total += tl.load(terms + i, mask=i < size, other=0.0)
        terms += size
    tl.store(out + i, total.to(out.dtype.element_ty), mask=i < size)
