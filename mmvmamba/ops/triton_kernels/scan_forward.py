"""The forward kernels: the scan, and two kernels that compute start states so that all chunks can run in parallel."""

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
    row_of,
    states_at,
    step_size,
    stride_t_of,
)


@triton.jit
def scan_steps(
    h, pos, stride_t, length, a, bias, skip, x, dt, B, C, y, m_d, m_n, m_add, SOFTPLUS: tl.constexpr, U: tl.constexpr
):
    """Computes U steps of `scan_fwd_kernel`: first all loads, then all arithmetic and stores."""
    x_t = ()
    z_t = ()
    B_t = ()
    C_t = ()
    y_at = ()
    y_t = ()
    for j in tl.static_range(U):
        x_t = x_t + (read(x, pos, m_d),)
        z_t = z_t + (read(dt, pos, m_d),)
        B_t = B_t + (read(B, pos, m_n),)
        C_t = C_t + (read(C, pos, m_n),)
        y_at = y_at + (at(y, pos),)
        y_t = y_t + (tl.load(y_at[j], mask=m_add, other=0.0),)
        pos = advance(pos, stride_t, length)
    for j in tl.static_range(U):
        delta = step_size(z_t[j], bias, SOFTPLUS)
        h = next_state(h, tl.exp2(delta[:, None] * a), delta, x_t[j], B_t[j])
        out = tl.sum(h * C_t[j].to(tl.float32)[None, :], 1) + skip * x_t[j].to(tl.float32) + y_t[j].to(tl.float32)
        tl.store(y_at[j], out.to(y[0].dtype.element_ty), mask=m_d)
    return h, pos


@triton.jit(do_not_specialize=UNSPECIALISED)
def scan_fwd_kernel(
    p_x, p_dt, p_A, p_B, p_C, p_D, p_dt_bias, p_start, p_y,
    s_x_b, s_x_k, s_x_p, s_dt_b, s_dt_k, s_dt_p, s_B_b, s_B_k, s_B_p, s_C_b, s_C_k, s_C_p,
    batch, groups, traversals, plan, height, width, channels, states, chunk, chunks, one_opaque,
    SOFTPLUS: tl.constexpr, WIDE: tl.constexpr, N: tl.constexpr, BD: tl.constexpr, U: tl.constexpr,
):  # fmt: skip
    """Computes y[group, b], the sum over a group's traversals of <C_t, h_t> + D x_t, for one chunk and BD channels.

    One program is one warp, and one lane processes one channel. The states h are a (BD, N) tile, so each lane holds all
    N states of its channel in registers. The recurrence and the sum over states need no communication between lanes.
    The steps are a sequential loop. One step is too short to hide the latency of a load, so the kernel loads U steps
    into tuples before it computes the first one. In a step-by-step loop, the compiler would not move a load before the
    preceding store. The remaining steps at the end are processed one at a time.

    The traversals of a group (for example a row traversal and its reverse) run one after the other over the same
    positions. The first one writes y, and the others add to the values that the same lane has written. The order of the
    sum is therefore fixed, and no atomics are needed. Chunks are divided in natural order, so a traversal and its
    reverse have the same chunks. `p_start` is the start state of each chunk, (b, K, chunks, N, d), or None for zero if
    there is only one chunk.

    Maps are (b, K, L, d) with strides (b, k, p), and B and C are (b, K, L, n). A (K, n, d), D (K, d) and dt_bias (K, d)
    are contiguous. y is (groups, b, L, d).
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
    even = (end - begin) // U * U

    first = 1
    for k in range(0, traversals):
        if group_of(plan, k) == group:
            code = code_of(plan, k)
            a = tl.load(p_A + states_at(k, n, d, states, channels, one_opaque), mask=m_tile, other=0.0) * LOG2E
            bias = row_of(p_dt_bias, k, d, channels, m_d, BD)
            skip = row_of(p_D, k, d, channels, m_d, BD)
            h = tl.zeros([BD, N], tl.float32)
            if p_start is not None:
                row = (b * traversals + k) * chunks + c
                h += tl.load(p_start + states_at(row, n, d, states, channels, one_opaque), mask=m_tile, other=0.0)
            k64 = tl.cast(k, tl.int64)
            x = oriented_ptr(p_x + b * s_x_b + k64 * s_x_k + d, s_x_p, code, length)
            dt = oriented_ptr(p_dt + b * s_dt_b + k64 * s_dt_k + d, s_dt_p, code, length)
            B = oriented_ptr(p_B + b * s_B_b + k64 * s_B_k + n, s_B_p, code, length)
            C = oriented_ptr(p_C + b * s_C_b + k64 * s_C_k + n, s_C_p, code, length)
            y = oriented_ptr(p_y + (group * batch + b) * length * channels + d, channels, code, length)
            m_add = m_d & (first == 0)
            stride_t = stride_t_of(code, width)
            pos = position(tl.where(code >= 2, length - end, begin), code, height, width, WIDE)
            for _ in range(0, even, U):
                h, pos = scan_steps(
                    h, pos, stride_t, length, a, bias, skip, x, dt, B, C, y, m_d, m_n, m_add, SOFTPLUS, U
                )
            for _ in range(even, end - begin):
                h, pos = scan_steps(
                    h, pos, stride_t, length, a, bias, skip, x, dt, B, C, y, m_d, m_n, m_add, SOFTPLUS, 1
                )
            first = 0
            tl.debug_barrier()  # the next traversal reads y


@triton.jit
def chunk_steps(
    h, g, cum_decay, total, pos, stride_t, length, a, bias, x, dt, B, C, grad_y, m_d, m_n,
    ADJOINT: tl.constexpr, SOFTPLUS: tl.constexpr, U: tl.constexpr,
):  # fmt: skip
    """Computes U steps of `chunk_state_kernel`."""
    x_t = ()
    z_t = ()
    B_t = ()
    C_t = ()
    g_t = ()
    for _ in tl.static_range(U):
        x_t = x_t + (read(x, pos, m_d),)
        z_t = z_t + (read(dt, pos, m_d),)
        B_t = B_t + (read(B, pos, m_n),)
        if ADJOINT:
            C_t = C_t + (read(C, pos, m_n),)
            g_t = g_t + (read(grad_y, pos, m_d),)
        pos = advance(pos, stride_t, length)
    for j in tl.static_range(U):
        delta = step_size(z_t[j], bias, SOFTPLUS)
        decay = tl.exp2(delta[:, None] * a)
        h = next_state(h, decay, delta, x_t[j], B_t[j])
        total += delta
        if ADJOINT:
            cum_decay = cum_decay * decay
            g += cum_decay * g_t[j].to(tl.float32)[:, None] * C_t[j].to(tl.float32)[None, :]
    return h, g, cum_decay, total, pos


@triton.jit(do_not_specialize=UNSPECIALISED)
def chunk_state_kernel(
    p_x, p_dt, p_A, p_B, p_C, p_dt_bias, p_grad_y, p_end_state, p_end_grad, p_decay,
    s_x_b, s_x_k, s_x_p, s_dt_b, s_dt_k, s_dt_p, s_B_b, s_B_k, s_B_p, s_C_b, s_C_k, s_C_p, s_grad_y_b, s_grad_y_p,
    traversals, plan, height, width, channels, states, chunk, chunks, one_opaque,
    ADJOINT: tl.constexpr, SOFTPLUS: tl.constexpr, WIDE: tl.constexpr, N: tl.constexpr, BD: tl.constexpr,
    U: tl.constexpr,
):  # fmt: skip
    """Computes the end state and the total decay of one chunk that starts from zero.

    end_state (b, K, chunks, N, d) is the state after the chunk. decay (b, K, chunks, d) is the sum of the chunk's step
    sizes: exp(A decay) is the decay of a state across the chunk. ADJOINT also computes end_grad, the contribution of
    the chunk's outputs to the gradient of the state before it: sum_t exp(A (delta_1 + ... + delta_t)) C_t grad_y_t.
    This needs no pass in reverse order.
    """
    block, c, k, b = program(channels, chunks, traversals, BD)
    d = block * BD + tl.arange(0, BD)
    n = tl.arange(0, N)
    m_d = d < channels
    m_n = n < states
    m_tile = m_n[None, :] & m_d[:, None]
    length = height * width
    begin = c * chunk
    end = tl.minimum(begin + chunk, length)
    even = (end - begin) // U * U
    code = code_of(plan, k).to(tl.int32)

    a = tl.load(p_A + states_at(k, n, d, states, channels, one_opaque), mask=m_tile, other=0.0) * LOG2E
    bias = row_of(p_dt_bias, k, d, channels, m_d, BD)
    k64 = tl.cast(k, tl.int64)
    x = oriented_ptr(p_x + b * s_x_b + k64 * s_x_k + d, s_x_p, code, length)
    dt = oriented_ptr(p_dt + b * s_dt_b + k64 * s_dt_k + d, s_dt_p, code, length)
    B = oriented_ptr(p_B + b * s_B_b + k64 * s_B_k + n, s_B_p, code, length)
    C = oriented_ptr(p_C + b * s_C_b + k64 * s_C_k + n, s_C_p, code, length)
    if ADJOINT:
        grad_y = oriented_ptr(p_grad_y + b * s_grad_y_b + d, s_grad_y_p, code, length)
    else:
        grad_y = x  # not read
    h = tl.zeros([BD, N], tl.float32)
    g = tl.zeros([BD, N], tl.float32)
    cum_decay = tl.full([BD, N], 1.0, tl.float32)
    total = tl.zeros([BD], tl.float32)
    stride_t = stride_t_of(code, width)
    pos = position(tl.where(code >= 2, length - end, begin), code, height, width, WIDE)
    for _ in range(0, even, U):
        h, g, cum_decay, total, pos = chunk_steps(
            h, g, cum_decay, total, pos, stride_t, length, a, bias, x, dt, B, C, grad_y, m_d, m_n, ADJOINT, SOFTPLUS, U,
        )  # fmt: skip
    for _ in range(even, end - begin):
        h, g, cum_decay, total, pos = chunk_steps(
            h, g, cum_decay, total, pos, stride_t, length, a, bias, x, dt, B, C, grad_y, m_d, m_n, ADJOINT, SOFTPLUS, 1,
        )  # fmt: skip
    row = (b * traversals + k) * chunks + c
    tl.store(p_decay + row * channels + d, total, mask=m_d)
    o_state = states_at(row, n, d, states, channels, one_opaque)
    tl.store(p_end_state + o_state, h, mask=m_tile)
    if ADJOINT:
        tl.store(p_end_grad + o_state, g, mask=m_tile)


@triton.jit(do_not_specialize=UNSPECIALISED)
def state_passing_kernel(
    p_A, p_decay, p_state,
    traversals, plan, channels, states, chunks,
    ADJOINT: tl.constexpr, BD: tl.constexpr, U: tl.constexpr,
):  # fmt: skip
    """Replaces each chunk's end state by its start state, in place: carry <- exp(A decay) carry + end.

    The loop over the chunks follows the direction of the traversal, or the opposite one for gradients (ADJOINT). One
    program processes one state index of BD channels.
    """
    pid = tl.program_id(0)
    blocks = tl.cdiv(channels, BD)
    d = (pid % blocks) * BD + tl.arange(0, BD)
    pid //= blocks
    n = pid % states
    k = (pid // states) % traversals
    row = (pid // states).to(tl.int64) * chunks
    m_d = d < channels
    backwards = (code_of(plan, k) >= 2) != ADJOINT
    a = tl.load(p_A + (k * states + n) * channels + d, mask=m_d, other=0.0) * LOG2E
    carry = tl.zeros([BD], tl.float32)
    for i in range(0, chunks, U):
        p_at = ()
        delta = ()
        end = ()
        for j in tl.static_range(U):
            c = row + tl.where(backwards, chunks - 1 - i - j, i + j)
            live = m_d & (i + j < chunks)
            p_at = p_at + (p_state + (c * states + n) * channels + d,)
            delta = delta + (tl.load(p_decay + c * channels + d, mask=live, other=0.0),)
            end = end + (tl.load(p_at[j], mask=live, other=0.0),)
        for j in tl.static_range(U):
            tl.store(p_at[j], carry, mask=m_d & (i + j < chunks))
            carry = tl.exp2(delta[j] * a) * carry + end[j]


@triton.jit(do_not_specialize=['parts', 'size'])
def reduce_kernel(p_terms, p_out, parts, size, BLOCK: tl.constexpr):
    """Adds `parts` float32 arrays of `size` elements in order and rounds the sum once to the dtype of `out`."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], tl.float32)
    for _ in range(0, parts):
        total += tl.load(p_terms + i, mask=i < size, other=0.0)
        p_terms += size
    tl.store(p_out + i, total.to(p_out.dtype.element_ty), mask=i < size)
