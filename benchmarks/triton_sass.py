"""Compiles the Triton kernels of the scan and the convolution without a GPU and reports properties of the machine code.

    python benchmarks/triton_sass.py [--arch 80 90] [--states 1 16] [--dtype fp16] [--json FILE]

For every kernel, architecture and number of states (0: the kernels of the convolution), the script prints registers and
spilled bytes as reported by ptxas, shuffles and shared memory. For the largest inner loop, it prints the instructions
and shuffles per step and the order of loads (L) and stores (S). Consecutive loads before the stores can be in flight at
the same time. No kernel is executed, so the results do not predict run times.
"""

import argparse
import json
import os
import re
import subprocess
import tempfile
from collections import Counter
from itertools import groupby
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from mmvmamba.ops.conv import triton_launch as conv_launch
from mmvmamba.ops.scan import triton_launch as launch
from mmvmamba.ops.triton_kernels.conv import convolve, convolve_back, spread_back
from mmvmamba.ops.triton_kernels.scan_backward import scan_bwd_kernel
from mmvmamba.ops.triton_kernels.scan_forward import (
    chunk_state_kernel,
    reduce_kernel,
    scan_fwd_kernel,
    state_passing_kernel,
)

TOOLS = Path(triton.__file__).parent / 'backends' / 'nvidia' / 'bin'
# Pointers (p_) to data in the dtype of the network; all other pointers are to float32.
MAPS = {'p_x', 'p_dt', 'p_B', 'p_C', 'p_grad_y', 'p_dx', 'p_ddt', 'p_out'}
# Arguments that are multiples of 16 only if the number of states is; Triton compiles a separate variant for this case.
# Other strides (s_) and pointers are always multiples of 16.
WITH_STATES = {'s_B_b', 's_B_k', 's_B_p', 's_C_b', 's_C_k', 's_C_p', 'states'}


def variants(states):
    """Yields (label, kernel, constants and options, unrolled steps), with a shared map, softplus, D and bias."""
    if states == 0:
        yield from conv_variants()
        return
    steps = launch.steps_ahead(states, 64)
    scan = dict(SOFTPLUS=True, WIDE=False, N=triton.next_power_of_2(states), num_warps=1)
    ahead = dict(scan, BD=launch.forward_channels(states), U=steps)
    back = dict(scan, BD=launch.backward_channels(states))
    yield 'scan_fwd_kernel', scan_fwd_kernel, dict(ahead, p_start=None), steps
    yield 'scan_fwd_kernel, chunked', scan_fwd_kernel, ahead, steps
    yield 'chunk_state_kernel', chunk_state_kernel, dict(ahead, ADJOINT=False, p_grad_y=None, p_end_grad=None), steps
    yield 'chunk_state_kernel, backward', chunk_state_kernel, dict(back, ADJOINT=True, U=steps), steps
    yield 'scan_bwd_kernel', scan_bwd_kernel, dict(back, SHARED=True, T=steps, p_start=None, p_last=None), steps
    yield 'scan_bwd_kernel, chunked', scan_bwd_kernel, dict(back, SHARED=True, T=steps), steps
    yield 'state_passing_kernel', state_passing_kernel, dict(ADJOINT=False, BD=128, U=8, num_warps=4), 8
    yield 'reduce_kernel', reduce_kernel, dict(BLOCK=1024, num_warps=4), 1


def conv_variants():
    for rows, columns in ((3, 3), (1, 4)):
        constants = dict(ROWS=rows, COLUMNS=columns, WIDE=False, **conv_launch.BLOCK)
        constants.pop('enable_fp_fusion')
        for kernel in (convolve, convolve_back, spread_back):
            yield f'{kernel.__name__}, {rows}x{columns}', kernel, constants, 1


def compile_kernel(kernel, constants, dtype, arch, states):
    constants = dict(constants)
    options = dict(num_warps=constants.pop('num_warps'), **launch.FUSION)
    names = kernel.arg_names
    signature = dict.fromkeys(names, 'i32')
    signature.update({name: '*fp32' for name in names if name.startswith('p_')})
    signature.update(dict.fromkeys(MAPS & signature.keys(), f'*{dtype}'))
    if kernel is convolve:
        signature['p_y'] = f'*{dtype}'  # in the scan kernels, p_y points to float32 sums
    signature.update(dict.fromkeys(constants, 'constexpr'))
    multiples = {name for name in names if name.startswith(('p_', 's_')) or name == 'channels'} - WITH_STATES
    if states and states % 16 == 0:
        multiples |= WITH_STATES
    aligned = [name for name in names if name not in constants and name in multiples]
    source = ASTSource(
        fn=kernel,
        signature=signature,
        constexprs={(names.index(k),): v for k, v in constants.items()},
        attrs={(names.index(name),): [['tt.divisibility', 16]] for name in aligned},
    )
    return triton.compile(source, target=GPUTarget('cuda', arch, 32), options=options)


def innermost_loop(sass):
    """Returns the instructions of the largest loop (backward branch) that does not contain another loop."""
    code = [(int(address, 16), text) for address, text in re.findall(r'/\*([0-9a-f]{4,})\*/\s+(.*?);', sass)]
    loops = []
    for address, text in code:
        target = re.search(r'\bBRA\S* .*?0x([0-9a-f]+)', text)
        if target and int(target.group(1), 16) < address:
            loops.append((int(target.group(1), 16), address))
    inner = [a for a in loops if not any(b != a and a[0] <= b[0] and b[1] <= a[1] for b in loops)]
    start, end = max(inner, key=lambda loop: loop[1] - loop[0], default=(0, 0))
    return [text for address, text in code if start <= address <= end]


def opcode(instruction):
    return re.sub(r'^@!?U?P\w+ ', '', instruction).split()[0]


def inspect(kernel, constants, dtype, arch, states, unroll):
    compiled = compile_kernel(kernel, constants, dtype, arch, states)
    with tempfile.TemporaryDirectory() as folder:
        ptx, cubin = Path(folder, 'kernel.ptx'), Path(folder, 'kernel.cubin')
        ptx.write_text(compiled.asm['ptx'])
        target = f'sm_{arch}a' if arch >= 90 else f'sm_{arch}'
        log = subprocess.run(
            [TOOLS / 'ptxas', '-v', f'--gpu-name={target}', ptx, '-o', cubin],
            capture_output=True,
            text=True,
            check=True,
        ).stderr
        sass = subprocess.run(
            [TOOLS / 'cuobjdump', '-sass', cubin],
            capture_output=True,
            text=True,
            check=True,
            env=dict(os.environ, PATH=f'{TOOLS}:{os.environ["PATH"]}'),
        ).stdout
    loop = [opcode(text) for text in innermost_loop(sass)]
    memory = [op[0] for op in loop if op.startswith(('LDG', 'STG'))]
    return dict(
        registers=int(re.findall(r'Used (\d+) registers', log)[0]),
        spilled_bytes=sum(int(n) for n in re.findall(r'(\d+) bytes spill', log)),
        shuffles=len(re.findall(r'\bSHFL\b', sass)),
        shared_bytes=compiled.metadata.shared,
        loop_instructions_per_step=round(len(loop) / unroll, 1),
        loop_shuffles_per_step=sum(op.startswith('SHFL') for op in loop) / unroll,
        loop_mix=dict(Counter(op.split('.')[0] for op in loop).most_common()),
        loop_memory_order=' '.join(f'{kind}x{len(list(run))}' for kind, run in groupby(memory)),
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--arch', type=int, nargs='+', default=[80, 90], help='compute capabilities times ten')
    parser.add_argument('--states', type=int, nargs='+', default=[1, 16, 0])
    parser.add_argument('--dtype', choices=['fp16', 'bf16', 'fp32'], default='fp16', help='dtype of the maps')
    parser.add_argument('--json', type=Path, help='write the results to this file')
    args = parser.parse_args()

    print(f'Triton {triton.__version__}, {args.dtype} maps')
    rows = []
    for arch in args.arch:
        for states in args.states:
            for label, kernel, constants, unroll in variants(states):
                row = dict(
                    kernel=label,
                    arch=arch,
                    states=states,
                    dtype=args.dtype,
                    **inspect(kernel, constants, args.dtype, arch, states, unroll),
                )
                rows.append(row)
                print(
                    'sm_{arch} n={states:<2} {kernel:<20} {registers:>3} registers, {spilled_bytes} bytes spilled, '
                    '{shuffles} shuffles, {shared_bytes} bytes shared | loop: {loop_instructions_per_step} '
                    'instructions and {loop_shuffles_per_step:g} shuffles per step, {loop_memory_order}'.format(**row),
                    flush=True,
                )
    if args.json:
        args.json.write_text(json.dumps(dict(triton=triton.__version__, kernels=rows), indent=1) + '\n')


if __name__ == '__main__':
    main()
