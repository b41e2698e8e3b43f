"""The backward kernel: recomputes the states in scan order, then computes the gradients in reverse order."""

import triton
import triton.language as tl

from .device_functions import (
    LOG2E,
    UNSPECIALISED,
    advance,
    at,
    code_of,
    group_of,
    next_state,
    oriented_ptr,
    position,
    program,
    read,
    retreat,
    row_of,
    sigmoid,
    states_at,
    step_size,
    stride_t_of,
)


@triton.jit
def replay_steps(h, pos, stride_t, length, a, bias, x, dt, B, m_d, m_n, SOFTPLUS: tl.constexpr, T: tl.constexpr):
    """Recomputes the states of T steps (phase one)."""
    x_t = ()
    z_t = ()
    B_t = ()
    for _ in tl.static_range(T):
        x_t = x_t + (read(x, pos, m_d),)
        z_t = z_t + (read(dt, pos, m_d),)
        B_t = B_t + (read(B, pos, m_n),)
        pos = advance(pos, stride_t, length)
    for j in tl.static_range(T):
        delta = step_size(z_t[j], bias, SOFTPLUS)
        h = next_state(h, tl.exp2(delta[:, None] * a), delta, x_t[j], B_t[j])
    return h, pos


@triton.jit
def grad_steps(
    h, g, sum_A, sum_D, sum_bias, pos, stride_t, length, A, bias, skip, x, dt, B, C, grad_y, dx, ddt, dB, dC, m_d, m_n,
    m_add,
    SOFTPLUS: tl.constexpr, T: tl.constexpr,
):  # fmt: skip
    """Computes the gradients of T steps in reverse order (phase two).

    `pos` is the position of the last step and `h` the state before the first one. Tuples are in reverse order as well:
    item i belongs to step T - 1 - i.
    """
    a = A * LOG2E
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
        x_t = x_t + (read(x, pos, m_d),)
        z_t = z_t + (read(dt, pos, m_d),)
        B_t = B_t + (read(B, pos, m_n),)
        C_t = C_t + (read(C, pos, m_n),)
        g_t = g_t + (read(grad_y, pos, m_d),)
        dx_at = dx_at + (at(dx, pos),)
        dx_t = dx_t + (tl.load(dx_at[i], mask=m_add, other=0.0),)
        ddt_at = ddt_at + (at(ddt, pos),)
        dBC_at = dBC_at + (pos * dB[1],)  # dB and dC have the same layout
        pos = retreat(pos, stride_t, length)
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
        tl.store(dC[0] + dBC_at[i], tl.sum(before[T - i] * dy[:, None], 0), mask=m_n)
        g += C_t[i].to(tl.float32)[None, :] * dy[:, None]
        tl.store(dB[0] + dBC_at[i], tl.sum(g * (delta * u)[:, None], 0), mask=m_n)
        via_B = tl.sum(g * B_t[i].to(tl.float32)[None, :], 1)
        g = tl.exp2(delta[:, None] * a) * g
        via_a = g * before[T - 1 - i]
        sum_A += via_a * delta[:, None]
        dz = via_B * u + tl.sum(via_a * A, 1)
        if SOFTPLUS:
            dz = dz * sigmoid(z_t[i].to(tl.float32) + bias)
        sum_bias += dz
        sum_D += dy * u
        tl.store(ddt_at[i], dz.to(ddt[0].dtype.element_ty), mask=m_d)
        du = via_B * delta + skip * dy + dx_t[i].to(tl.float32)
        tl.store(dx_at[i], du.to(dx[0].dtype.element_ty), mask=m_d)
    return g, sum_A, sum_D, sum_bias, pos


@triton.jit(do_not_specialize=UNSPECIALISED)
def scan_bwd_kernel(
    p_x, p_dt, p_A, p_B, p_C, p_D, p_dt_bias, p_grad_y, p_start, p_last, p_scratch, p_dx, p_ddt, p_dA, p_dB, p_dC, p_dD,
    p_dbias,
    s_x_b, s_x_k, s_x_p, s_dt_b, s_dt_k, s_dt_p, s_B_b, s_B_k, s_B_p, s_C_b, s_C_k, s_C_p, s_grad_y_b, s_grad_y_p,
    s_ddt_b, s_ddt_k,
    batch, groups, traversals, plan, height, width, channels, states, chunk, chunks, one_opaque,
    SHARED: tl.constexpr, SOFTPLUS: tl.constexpr, WIDE: tl.constexpr, N: tl.constexpr, BD: tl.constexpr,
    T: tl.constexpr,
):  # fmt: skip
    """Computes the gradients of one chunk and BD channels, for the traversals of one group.

    Lanes and states are as in `scan_fwd_kernel`.

    With g_t the gradient of the state h_t, a_t = exp(delta_t A) and u_t = delta_t x_t:

        g_t = C_t dy_t + a_{t+1} g_{t+1}          dC_t = sum_d h_t dy_t         dB_t = sum_d g_t u_t
        dx_t = delta_t <g_t, B_t> + D dy_t        dA = sum_t delta_t g_t a_t h_{t-1}
        ddelta_t = x_t <g_t, B_t> + <A, g_t a_t h_{t-1}>                        ddt_t = ddelta_t softplus'(z_t)

    The forward kernel does not store the states that the gradients need. Phase one repeats the scan and stores the
    state before every T-th step in `p_scratch`. Phase two processes the tiles of T steps from the last to the first: it
    recomputes their states in registers and computes the gradients in reverse order. The remaining steps at the end are
    tiles of one step, so the scratch memory is (b, K, chunks, chunk // T + T - 1, N, d). `p_start` is the state before
    each chunk and `p_last` the gradient after it, both (b, K, chunks, N, d), or None for zeros.

    ddt is (b, K, L, d) with strides (s_ddt_b, s_ddt_k, d). With SHARED, dx is (groups, b, L, d), summed over the
    traversals of each group; otherwise it is one map per traversal, (b, K, L, d). dB and dC are partial sums over
    channels, (blocks, b, K, L, n). dA is (b, chunks, K, n, d), and dD and dbias are (b, chunks, K, d). A fixed order of
    summation after the kernel replaces atomics.
    """
    block, c, group, b = program(channels, chunks, groups, BD)
    d = block * BD + tl.arange(0, BD)
    n = tl.arange(0, N)
    m_d = d < channels
    m_n = n < states
    m_tile = m_n[None, :] & m_d[:, None]
    length = height * width
    begin = c * chunk
    end = tl.minimum(begin + chunk, length)
    even = (end - begin) // T * T
    odd = end - begin - even

    first = 1
    for k in range(0, traversals):
        if group_of(plan, k) == group:
            code = code_of(plan, k)
            A = tl.load(p_A + states_at(k, n, d, states, channels, one_opaque), mask=m_tile, other=0.0)
            a = A * LOG2E
            bias = row_of(p_dt_bias, k, d, channels, m_d, BD)
            skip = row_of(p_D, k, d, channels, m_d, BD)
            image = b * traversals + k
            h = tl.zeros([BD, N], tl.float32)
            g = tl.zeros([BD, N], tl.float32)
            if p_start is not None:
                o_edge = states_at(image * chunks + c, n, d, states, channels, one_opaque)
                h += tl.load(p_start + o_edge, mask=m_tile, other=0.0)
                g += tl.load(p_last + o_edge, mask=m_tile, other=0.0)
            slots = chunk // T + T - 1
            p_slot = p_scratch + (image * chunks + c) * slots * states * channels
            o_slot = n[None, :] * channels + d[:, None] * one_opaque
            k64 = tl.cast(k, tl.int64)
            x = oriented_ptr(p_x + b * s_x_b + k64 * s_x_k + d, s_x_p, code, length)
            dt = oriented_ptr(p_dt + b * s_dt_b + k64 * s_dt_k + d, s_dt_p, code, length)
            B = oriented_ptr(p_B + b * s_B_b + k64 * s_B_k + n, s_B_p, code, length)
            C = oriented_ptr(p_C + b * s_C_b + k64 * s_C_k + n, s_C_p, code, length)
            grad_y = oriented_ptr(p_grad_y + b * s_grad_y_b + d, s_grad_y_p, code, length)
            dx_map = group * batch + b if SHARED else image
            dx = oriented_ptr(p_dx + dx_map * length * channels + d, channels, code, length)
            ddt = oriented_ptr(p_ddt + b * s_ddt_b + k64 * s_ddt_k + d, channels, code, length)
            o_part = (block * batch.to(tl.int64) * traversals + image) * length * states
            dB = oriented_ptr(p_dB + o_part + n, states, code, length)
            dC = oriented_ptr(p_dC + o_part + n, states, code, length)
            m_add = m_d & (first == 0) & SHARED
            stride_t = stride_t_of(code, width)
            origin = tl.where(code >= 2, length - end, begin)

            pos = position(origin, code, height, width, WIDE)
            for _ in range(0, even, T):
                tl.store(p_slot + o_slot, h, mask=m_tile)
                p_slot += states * channels
                h, pos = replay_steps(h, pos, stride_t, length, a, bias, x, dt, B, m_d, m_n, SOFTPLUS, T)
            for _ in range(0, odd):
                tl.store(p_slot + o_slot, h, mask=m_tile)
                p_slot += states * channels
                h, pos = replay_steps(h, pos, stride_t, length, a, bias, x, dt, B, m_d, m_n, SOFTPLUS, 1)
            tl.debug_barrier()  # phase two reads the scratch memory

            sum_A = tl.zeros([BD, N], tl.float32)
            sum_D = tl.zeros([BD], tl.float32)
            sum_bias = tl.zeros([BD], tl.float32)
            pos = position(origin + end - begin - 1, code, height, width, WIDE)
            for _ in range(0, odd):
                p_slot -= states * channels
                h = tl.load(p_slot + o_slot, mask=m_tile, other=0.0)
                g, sum_A, sum_D, sum_bias, pos = grad_steps(
                    h, g, sum_A, sum_D, sum_bias, pos, stride_t, length, A, bias, skip, x, dt, B, C, grad_y, dx, ddt,
                    dB, dC, m_d, m_n, m_add, SOFTPLUS, 1,
                )  # fmt: skip
            for _ in range(0, even, T):
                p_slot -= states * channels
                h = tl.load(p_slot + o_slot, mask=m_tile, other=0.0)
                g, sum_A, sum_D, sum_bias, pos = grad_steps(
                    h, g, sum_A, sum_D, sum_bias, pos, stride_t, length, A, bias, skip, x, dt, B, C, grad_y, dx, ddt,
                    dB, dC, m_d, m_n, m_add, SOFTPLUS, T,
                )  # fmt: skip

            row = (b * chunks + c) * traversals + k
            tl.store(p_dA + states_at(row, n, d, states, channels, one_opaque), sum_A, mask=m_tile)
            if p_dD is not None:
                tl.store(p_dD + row * channels + d, sum_D, mask=m_d)
            if p_dbias is not None:
                tl.store(p_dbias + row * channels + d, sum_bias, mask=m_d)
            first = 0
            tl.debug_barrier()  # the next traversal reads dx
