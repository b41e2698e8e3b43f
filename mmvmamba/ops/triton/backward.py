"""The backward kernel: the states once more forwards, then their gradients backwards."""

import triton
import triton.language as tl

from .forward import _SIZES
from .walk import advance, facing, next_state, position, retreat, sigmoid, step_size


@triton.jit
def replay_steps(
    h, pos, pace, length, a, bias, x, x_p, dt, dt_p, B, B_p, dm, nm, SOFTPLUS: tl.constexpr, T: tl.constexpr
):
    """T steps of phase one."""
    x_t = ()
    z_t = ()
    B_t = ()
    for _ in tl.static_range(T):
        x_t = x_t + (tl.load(x + pos * x_p, mask=dm, other=0.0),)
        z_t = z_t + (tl.load(dt + pos * dt_p, mask=dm, other=0.0),)
        B_t = B_t + (tl.load(B + pos * B_p, mask=nm, other=0.0),)
        pos = advance(pos, pace, length)
    for j in tl.static_range(T):
        delta = step_size(z_t[j], bias, SOFTPLUS)
        h = next_state(h, tl.exp2(delta[:, None] * a), delta, x_t[j], B_t[j])
    return h, pos


@triton.jit
def grad_steps(
    h,
    g,
    sum_A,
    sum_D,
    sum_bias,
    pos,
    pace,
    length,
    A,
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
    grad,
    grad_p,
    dx,
    dx_p,
    ddt,
    ddt_p,
    dB,
    dC,
    dBC_p,
    dm,
    nm,
    add,
    SOFTPLUS: tl.constexpr,
    T: tl.constexpr,
):
    """T steps of phase two, from the last, at pos, to the first; h is the state before the first.

    Tuples run in that order too: item i is step T - 1 - i.
    """
    a = A * 1.4426950408889634
    x_t = ()
    z_t = ()
    B_t = ()
    C_t = ()
    g_t = ()
    dx_at = ()
    dx_t = ()
    ddt_at = ()
    dBC_at = ()
    for i in tl.static_range(T):
        x_t = x_t + (tl.load(x + pos * x_p, mask=dm, other=0.0),)
        z_t = z_t + (tl.load(dt + pos * dt_p, mask=dm, other=0.0),)
        B_t = B_t + (tl.load(B + pos * B_p, mask=nm, other=0.0),)
        C_t = C_t + (tl.load(C + pos * C_p, mask=nm, other=0.0),)
        g_t = g_t + (tl.load(grad + pos * grad_p, mask=dm, other=0.0),)
        dx_at = dx_at + (dx + pos * dx_p,)
        dx_t = dx_t + (tl.load(dx_at[i], mask=add, other=0.0),)
        ddt_at = ddt_at + (ddt + pos * ddt_p,)
        dBC_at = dBC_at + (pos * dBC_p,)
        pos = retreat(pos, pace, length)
    delta_t = ()
    before = (h,)
    for j in tl.static_range(T):
        delta = step_size(z_t[T - 1 - j], bias, SOFTPLUS)
        h = next_state(h, tl.exp2(delta[:, None] * a), delta, x_t[T - 1 - j], B_t[T - 1 - j])
        delta_t = delta_t + (delta,)
        before = before + (h,)
    for i in tl.static_range(T):
        delta = delta_t[T - 1 - i]
        u = x_t[i].to(tl.float32)
        dy = g_t[i].to(tl.float32)
        tl.store(dC + dBC_at[i], tl.sum(before[T - i] * dy[:, None], 0), mask=nm)
        g += C_t[i].to(tl.float32)[None, :] * dy[:, None]
        tl.store(dB + dBC_at[i], tl.sum(g * (delta * u)[:, None], 0), mask=nm)
        via_B = tl.sum(g * B_t[i].to(tl.float32)[None, :], 1)
        g = tl.exp2(delta[:, None] * a) * g
        via_a = g * before[T - 1 - i]
        sum_A += via_a * delta[:, None]
        dz = via_B * u + tl.sum(via_a * A, 1)
        if SOFTPLUS:
            dz = dz * sigmoid(z_t[i].to(tl.float32) + bias)
        sum_bias += dz
        sum_D += dy * u
        tl.store(ddt_at[i], dz.to(ddt.dtype.element_ty), mask=dm)
        du = via_B * delta + skip * dy + dx_t[i].to(tl.float32)
        tl.store(dx_at[i], du.to(dx.dtype.element_ty), mask=dm)
    return g, sum_A, sum_D, sum_bias, pos


@triton.jit(do_not_specialize=_SIZES)
def sweep_back(
    x,
    dt,
    A,
    B,
    C,
    D,
    dt_bias,
    grad_y,
    start,
    last,
    scratch,
    dx,
    ddt,
    dA,
    dB,
    dC,
    dD,
    dbias,
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
    ob,
    ok,
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
    SHARED: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    WIDE: tl.constexpr,
    N: tl.constexpr,
    BD: tl.constexpr,
    T: tl.constexpr,
):
    """Gradients of one chunk of steps and BD channels, for the traversals of one group; lanes and states as in `sweep`.

    With g_t the gradient of the state h_t, a_t = exp(delta_t A) and u_t = delta_t x_t:

        g_t = C_t dy_t + a_{t+1} g_{t+1}          dC_t = sum_d h_t dy_t         dB_t = sum_d g_t u_t
        dx_t = delta_t <g_t, B_t> + D dy_t        dA = sum_t delta_t g_t a_t h_{t-1}
        ddelta_t = x_t <g_t, B_t> + <A, g_t a_t h_{t-1}>                        ddt_t = ddelta_t softplus'(z_t)

    The forward does not store the states that this needs. Phase one sweeps forwards and leaves the state before every
    T-th step in `scratch`. Phase two takes the tiles of T steps from the last to the first: it rebuilds their states in
    registers and walks them backwards. The odd steps at the end are tiles of one step. So scratch is
    (b, K, chunks, chunk // T + T - 1, N, d). `start` and `last` are the state before the chunk and the gradient that
    comes from behind it, (b, K, chunks, N, d), or None for zeros.

    ddt is (b, K, L, d) with strides (ob, ok, d). dx is (groups, b, L, d), added up over a group's traversals, or
    without SHARED one map for each traversal, (b, K, L, d). dB and dC are partial sums, (blocks, b, K, L, n); dA (..,
    n, d), dD and dbias have a row for every image and chunk, (b, chunks, K, ..). Nothing is added by atomics: what is
    partial here is added in a fixed order afterwards.
    """
    pid = tl.program_id(0)
    blocks = tl.cdiv(channels, BD)
    block = pid % blocks
    d = block * BD + tl.arange(0, BD)
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
    even = (end - begin) // T * T
    odd = end - begin - even

    first = 1
    for k in range(0, traversals):
        entry = (plan >> (4 * k)) & 15
        if (entry >> 2) == group:
            code = entry & 3
            A_k = tl.load(A + (k * states + n[None, :]) * channels + d[:, None] * unit, mask=tile, other=0.0)
            a = A_k * 1.4426950408889634
            bias = tl.zeros([BD], tl.float32)
            skip = tl.zeros([BD], tl.float32)
            if dt_bias is not None:
                bias += tl.load(dt_bias + k * channels + d, mask=dm, other=0.0)
            if D is not None:
                skip += tl.load(D + k * channels + d, mask=dm, other=0.0)
            image = b * traversals + k
            edge = (image * chunks + c) * states + n
            h = tl.zeros([BD, N], tl.float32)
            g = tl.zeros([BD, N], tl.float32)
            if start is not None:
                h += tl.load(start + edge[None, :] * channels + d[:, None] * unit, mask=tile, other=0.0)
                g += tl.load(last + edge[None, :] * channels + d[:, None] * unit, mask=tile, other=0.0)
            slots = chunk // T + T - 1
            slot = scratch + (image * chunks + c) * slots * states * channels
            inner = n[None, :] * channels + d[:, None] * unit
            k64 = tl.cast(k, tl.int64)
            x_k, x_p = facing(x + b * xb + k64 * xk + d, xp, code, length)
            dt_k, dt_p = facing(dt + b * tb + k64 * tk + d, tp, code, length)
            B_k, B_p = facing(B + b * Bb + k64 * Bk + n, Bp, code, length)
            C_k, C_p = facing(C + b * Cb + k64 * Ck + n, Cp, code, length)
            grad_k, grad_p = facing(grad_y + b * gb + d, gp, code, length)
            sums = group * batch + b if SHARED else image
            dx_k, dx_p = facing(dx + sums * length * channels + d, channels, code, length)
            ddt_k, ddt_p = facing(ddt + b * ob + k64 * ok + d, channels, code, length)
            sums = (block * batch.to(tl.int64) * traversals + image) * length * states
            dB_k, dBC_p = facing(dB + sums + n, states, code, length)
            dC_k, dBC_p = facing(dC + sums + n, states, code, length)
            add = dm & (first == 0) & SHARED
            pace = tl.where((code & 1) == 1, width, 1)
            origin = tl.where(code >= 2, length - end, begin)

            pos = position(origin, code, height, width, WIDE)
            for _ in range(0, even, T):
                tl.store(slot + inner, h, mask=tile)
                slot += states * channels
                h, pos = replay_steps(
                    h, pos, pace, length, a, bias, x_k, x_p, dt_k, dt_p, B_k, B_p, dm, nm, SOFTPLUS, T
                )
            for _ in range(0, odd):
                tl.store(slot + inner, h, mask=tile)
                slot += states * channels
                h, pos = replay_steps(
                    h, pos, pace, length, a, bias, x_k, x_p, dt_k, dt_p, B_k, B_p, dm, nm, SOFTPLUS, 1
                )
            tl.debug_barrier()  # phase two reads the scratch

            sum_A = tl.zeros([BD, N], tl.float32)
            sum_D = tl.zeros([BD], tl.float32)
            sum_bias = tl.zeros([BD], tl.float32)
            pos = position(origin + end - begin - 1, code, height, width, WIDE)
            for _ in range(0, odd):
                slot -= states * channels
                h = tl.load(slot + inner, mask=tile, other=0.0)
                g, sum_A, sum_D, sum_bias, pos = grad_steps(
                    h,
                    g,
                    sum_A,
                    sum_D,
                    sum_bias,
                    pos,
                    pace,
                    length,
                    A_k,
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
                    grad_k,
                    grad_p,
                    dx_k,
                    dx_p,
                    ddt_k,
                    ddt_p,
                    dB_k,
                    dC_k,
                    dBC_p,
                    dm,
                    nm,
                    add,
                    SOFTPLUS,
                    1,
                )
            for _ in range(0, even, T):
                slot -= states * channels
                h = tl.load(slot + inner, mask=tile, other=0.0)
                g, sum_A, sum_D, sum_bias, pos = grad_steps(
                    h,
                    g,
                    sum_A,
                    sum_D,
                    sum_bias,
                    pos,
                    pace,
                    length,
                    A_k,
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
                    grad_k,
                    grad_p,
                    dx_k,
                    dx_p,
                    ddt_k,
                    ddt_p,
                    dB_k,
                    dC_k,
                    dBC_p,
                    dm,
                    nm,
                    add,
                    SOFTPLUS,
                    T,
                )

            row = (b * chunks + c) * traversals + k
            tl.store(dA + (row * states + n[None, :]) * channels + d[:, None] * unit, sum_A, mask=tile)
            if dD is not None:
                tl.store(dD + row * channels + d, sum_D, mask=dm)
            if dbias is not None:
                tl.store(dbias + row * channels + d, sum_bias, mask=dm)
            first = 0
            tl.debug_barrier()  # the next traversal reads dx
