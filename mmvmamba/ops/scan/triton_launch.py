"""Launches the scan kernels: grid, chunks and scratch memory.

One batched GEMM in the dtype of the maps expands a low-rank dt before the kernels run. The backward pass repeats it,
and two more GEMMs compute its gradients. Inside the scan, the product would cost r multiply-adds per channel and step,
in addition to about 50 instructions.

Block sizes are constants and not autotuned. They fix the order of partial sums, so a choice by measured time could
change the last bits of a gradient from one run to the next.
"""

import functools
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from ..triton_kernels import FUSION
from ..triton_kernels.scan_backward import scan_bwd_kernel
from ..triton_kernels.scan_forward import chunk_state_kernel, reduce_kernel, scan_fwd_kernel, state_passing_kernel
from .scan_inputs import ScanInputs
from .traversal import COLUMN, REVERSED

WARPS_PER_MULTIPROCESSOR = 8  # minimum to hide the latency of loads; an estimate, not tuned on a device
MIN_CHUNK = 16  # steps
MAX_TRAVERSALS = 15  # `plan` has 64 bits, 4 per traversal
MAX_SCRATCH = 1 << 30  # bytes; the backward pass splits a batch that needs more


def forward_channels(states: int) -> int:
    """Returns the channels per program (one warp): one channel per lane, or fewer if N > 16."""
    return min(32, max(1, 512 // triton.next_power_of_2(states)))


def backward_channels(states: int) -> int:
    """Like `forward_channels`, but fewer if N > 4: a program holds the states of several steps. More would spill."""
    return min(32, max(1, 128 // triton.next_power_of_2(states)))


def steps_ahead(states: int, length: int) -> int:
    """Returns the number of steps whose inputs (and, in the backward pass, states) a program holds in registers.

    It is 7 if 7 divides the sequence length and 8 does not, as in maps of 14 x 14 and 7 x 7, because the kernels
    process the remaining steps one at a time.
    """
    if states > 2:
        return 4
    return 7 if length % 7 == 0 and length % 8 else 8


class Schedule(NamedTuple):
    """The division of the scan into programs. The traversals of a group share one program and one output map."""

    groups: list[int]  # group of each traversal
    chunk: int  # steps per chunk
    chunks: int


def schedule(blocks: int, length: int, steps: int, codes: list[int], multiprocessors: int) -> Schedule:
    """Chooses one serial scan of the sequence if that fills the device, else as many chunks as are needed.

    A traversal and its reverse share a program, and thus the memory for their sum. If that gives too few programs, each
    traversal gets its own. Chunks are the last choice, because they need an additional pass to compute the state at
    which each of them starts.

    Args:
        blocks: Warps per traversal, over the batch and its channels.
        length: Steps of the sequence.
        steps: The number of steps per chunk is a multiple of this.
        codes: Codes of the traversals.
        multiprocessors: Multiprocessors of the device.
    """
    orientations = sorted({code & COLUMN for code in codes})
    by_orientation = [orientations.index(code & COLUMN) for code in codes]
    enough = WARPS_PER_MULTIPROCESSOR * multiprocessors
    if blocks * len(orientations) >= enough:
        return Schedule(by_orientation, length, 1)
    if len(codes) <= 4 and (blocks * len(codes) >= enough or length < 2 * MIN_CHUNK):
        return Schedule(list(range(len(codes))), length, 1)
    wanted = triton.cdiv(2 * enough, blocks * len(orientations))
    chunk = triton.cdiv(max(MIN_CHUNK, triton.cdiv(length, wanted)), steps) * steps
    return Schedule(by_orientation, chunk, triton.cdiv(length, chunk))


@functools.cache
def multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == 'cuda' else 1


def check(codes: list[int]) -> None:
    """Raises ValueError if there are more traversals than the kernels support."""
    if len(codes) > MAX_TRAVERSALS:
        raise ValueError(
            f'The Triton scan takes at most {MAX_TRAVERSALS} traversals, not {len(codes)}: '
            "use_backend('chunked') takes any number."
        )


def forward(inputs: ScanInputs, out_dtype: torch.dtype) -> Tensor:
    x, dt, A, B, C, D, dt_bias, dt_weight, codes, dt_softplus = inputs
    check(codes)
    if dt_weight is not None:
        dt = expand(dt, dt_weight)
    out = x.new_empty((x.shape[0], *x.shape[-3:]), dtype=out_dtype)
    if out.numel():
        with torch.cuda.device_of(x):
            Scan(x, dt, A, B, C, D, dt_bias, codes, dt_softplus, forward_channels(A.shape[-1])).forward(out)
    return out


def backward(grad_y: Tensor, inputs: ScanInputs) -> tuple[Tensor | None, ...]:
    x, dt, A, B, C, D, dt_bias, dt_weight, codes, dt_softplus = inputs
    check(codes)
    full = dt if dt_weight is None else expand(dt, dt_weight)
    dx, dB, dC = (t.new_empty(t.shape) for t in (x, B, C))
    ddt = dt.new_empty(dt.shape) if dt_weight is None else torch.empty_like(full)  # in the memory layout of the GEMM
    sums = [None if t is None else t.new_zeros(t.shape, dtype=torch.float32) for t in (A, D, dt_bias)]
    if grad_y.numel():
        with torch.cuda.device_of(x):
            images = max(1, MAX_SCRATCH // scratch_bytes(x.shape, A.shape))
            for i in range(0, len(x), images):
                part = slice(i, i + images)
                scan = Scan(
                    x[part], full[part], A, B[part], C[part], D, dt_bias, codes, dt_softplus,
                    backward_channels(A.shape[-1]),
                )  # fmt: skip
                scan.backward(grad_y[part], dx[part], ddt[part], dB[part], dC[part], *sums)
    dA, dD, dbias = (None if t is None else total.to(t.dtype) for t, total in zip((A, D, dt_bias), sums))
    if dt_weight is None:
        return dx, ddt, dA, dB, dC, dD, dbias, None
    ddt, dweight = expand_backward(ddt, dt, dt_weight)
    return dx, ddt, dA, dB, dC, dD, dbias, dweight


def expand(dt: Tensor, weight: Tensor) -> Tensor:
    """Multiplies (b, K, H, W, r) by (K, d, r). The result is (b, K, H, W, d), with memory layout (K, b, H, W, d)."""
    full = torch.bmm(dt.transpose(0, 1).flatten(1, -2), weight.to(dt.dtype).transpose(1, 2))
    return full.unflatten(1, (dt.shape[0], *dt.shape[2:4])).transpose(0, 1)


def expand_backward(grad: Tensor, dt: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    rows = grad.transpose(0, 1).flatten(1, -2)
    ddt = torch.bmm(rows, weight.to(dt.dtype)).unflatten(1, (dt.shape[0], *dt.shape[2:4])).transpose(0, 1)
    dweight = torch.bmm(rows.transpose(1, 2), dt.transpose(0, 1).flatten(1, -2))
    return ddt.contiguous(), dweight.to(weight.dtype)


def state_slots(chunk: int, steps: int) -> int:
    """Returns the states per chunk that the backward stores: one per tile of steps and one per remaining step."""
    return chunk // steps + steps - 1


def scratch_bytes(x_shape: torch.Size, A_shape: torch.Size) -> int:
    """Returns the scratch memory of the backward for one image: the states, and the partial sums of dB and dC."""
    length = x_shape[-3] * x_shape[-2]
    traversals, channels, states = A_shape
    blocks = triton.cdiv(channels, backward_channels(states))
    return 4 * traversals * states * (state_slots(length, steps_ahead(states, length)) * channels + 2 * blocks * length)


def as_sequence(maps: Tensor) -> Tensor:
    """(.., H, W, c) -> (.., H * W, c) with contiguous channels. A view if the strides permit it, else a copy."""
    sequence = maps.flatten(-3, -2)
    return sequence if sequence.stride(-1) == 1 else sequence.contiguous()


def write_sum(terms: Tensor, out: Tensor) -> None:
    """Writes terms.sum(0) to `out`, added in order and rounded once. Both are contiguous; `terms` is float32."""
    reduce_kernel[(triton.cdiv(out.numel(), 1024),)](
        p_terms=terms, p_out=out, parts=len(terms), size=out.numel(), BLOCK=1024, num_warps=4, **FUSION
    )


class Scan:
    """The kernel arguments of one call, for programs of `block` channels."""

    def __init__(self, x, dt, A, B, C, D, dt_bias, codes, dt_softplus, block):
        height, width = x.shape[-3:-1]
        if height == 1 or width == 1:
            codes = [code & REVERSED for code in codes]  # a column is also a row here, and rows are cheaper to traverse
        self.batch, self.K, self.length = len(x), len(codes), height * width
        self.channels, self.states = A.shape[1:]
        self.blocks = triton.cdiv(self.channels, block)
        self.steps = steps_ahead(self.states, self.length)
        groups, self.chunk, self.chunks = schedule(
            self.batch * self.blocks, self.length, self.steps, codes, multiprocessors(x.device)
        )
        self.groups = max(groups) + 1
        self.programs = self.blocks * self.chunks * self.batch  # per traversal or group
        self.plan = sum((code | group << 2) << 4 * k for k, (code, group) in enumerate(zip(codes, groups)))

        self.shared = x.dim() == 4
        if self.states > 2:
            B, C = B.contiguous(), C.contiguous()  # small compared to the maps; aligned, so one load reads 8 states
        maps = [as_sequence(t) for t in (x.unsqueeze(1) if self.shared else x, dt, B, C)]
        strides = [t.stride()[:3] for t in maps]
        if self.shared:
            strides[0] = (strides[0][0], 0, strides[0][2])
        names = ('x', 'dt', 'B', 'C')
        self.parameters = dict(
            p_A=A.transpose(1, 2).contiguous(), p_dt_bias=None if dt_bias is None else dt_bias.contiguous()
        )
        self.D = None if D is None else D.contiguous()
        self.maps = {f'p_{name}': t for name, t in zip(names, maps)}
        self.maps |= {f's_{name}_{axis}': s for name, of in zip(names, strides) for axis, s in zip('bkp', of)}
        self.position_strides = [of[2] for of in strides]
        self.geometry = dict(
            traversals=self.K, plan=self.plan, height=height, width=width, channels=self.channels, states=self.states,
            chunk=self.chunk, chunks=self.chunks, one_opaque=1,
        )  # fmt: skip
        self.constants = dict(
            SOFTPLUS=dt_softplus, N=triton.next_power_of_2(self.states), BD=block, num_warps=1, **FUSION
        )

    def wide(self, *strides: int) -> bool:
        """Returns whether an offset within an image needs 64 bits. `strides`: further strides between positions."""
        return self.length * max(self.channels, self.states, *self.position_strides, *strides) >= 1 << 31

    def new(self, *shape: int) -> Tensor:
        return self.maps['p_x'].new_empty(shape, dtype=torch.float32)

    def forward(self, out: Tensor) -> None:
        """Writes y to `out`, (b, H, W, d) in any dtype."""
        start = self.chunk_states() if self.chunks > 1 else None
        terms = out[None] if self.K == 1 else self.new(self.groups, *out.shape)
        scan_fwd_kernel[(self.programs * self.groups,)](
            **self.maps, **self.parameters, p_D=self.D, p_start=start, p_y=terms, batch=self.batch, groups=self.groups,
            **self.geometry, WIDE=self.wide(), U=self.steps, **self.constants,
        )  # fmt: skip
        if self.K > 1:
            write_sum(terms, out)

    def chunk_states(self, grad_y: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """Returns the state before each chunk and, given grad_y (b, L, d), also the gradient after each chunk."""
        adjoint = grad_y is not None
        strides = grad_y.stride()[:2] if adjoint else (0, 0)
        decay = self.new(self.batch, self.K, self.chunks, self.channels)
        before = self.new(self.batch, self.K, self.chunks, self.states, self.channels)
        behind = torch.empty_like(before) if adjoint else None
        chunk_state_kernel[(self.programs * self.K,)](
            **self.maps, **self.parameters, p_grad_y=grad_y, p_end_state=before, p_end_grad=behind, p_decay=decay,
            s_grad_y_b=strides[0], s_grad_y_p=strides[1], **self.geometry, ADJOINT=adjoint, WIDE=self.wide(*strides),
            U=self.steps, **self.constants,
        )  # fmt: skip
        for state in (before, behind) if adjoint else (before,):
            state_passing_kernel[(triton.cdiv(self.channels, 128) * self.states * self.K * self.batch,)](
                p_A=self.parameters['p_A'], p_decay=decay, p_state=state, traversals=self.K, plan=self.plan,
                channels=self.channels, states=self.states, chunks=self.chunks, ADJOINT=state is behind, BD=128, U=8,
                num_warps=4, **FUSION,
            )  # fmt: skip
        return (before, behind) if adjoint else before

    def backward(self, grad_y, dx, ddt, dB, dC, dA, dD, dbias) -> None:
        """Writes dx, ddt, dB and dC. Adds to dA, dD and dbias, which are float32 or None."""
        grad_y = as_sequence(grad_y)
        before, behind = self.chunk_states(grad_y) if self.chunks > 1 else (None, None)
        slots = state_slots(self.chunk, self.steps)
        scratch = self.new(self.batch, self.K, self.chunks, slots, self.states, self.channels)
        dx_terms = self.new(self.groups, *dx.shape) if self.shared and self.K > 1 else dx[None]
        dB_terms, dC_terms = (self.new(self.blocks, *t.shape) for t in (dB, dC))
        totals = (dA.transpose(1, 2), dD, dbias)
        rows = [None if t is None else self.new(self.batch * self.chunks, *t.shape) for t in totals]
        strides = grad_y.stride()[:2]
        scan_bwd_kernel[(self.programs * self.groups,)](
            **self.maps, **self.parameters, p_D=self.D, p_grad_y=grad_y, p_start=before, p_last=behind,
            p_scratch=scratch, p_dx=dx_terms, p_ddt=ddt, p_dA=rows[0], p_dB=dB_terms, p_dC=dC_terms, p_dD=rows[1],
            p_dbias=rows[2], s_grad_y_b=strides[0], s_grad_y_p=strides[1], s_ddt_b=ddt.stride(0), s_ddt_k=ddt.stride(1),
            batch=self.batch, groups=self.groups, **self.geometry, SHARED=self.shared, WIDE=self.wide(*strides),
            T=self.steps, **self.constants,
        )  # fmt: skip
        if self.shared and self.K > 1:
            write_sum(dx_terms, dx)
        write_sum(dB_terms, dB)
        write_sum(dC_terms, dC)
        for total, terms in zip(totals, rows):
            if total is not None:
                total += terms.sum(0)
