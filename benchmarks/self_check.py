"""Compares a backend's kernels with the blocked scan as the self-check does, and prints how far they are off.

    python benchmarks/self_check.py [--backend triton] [--device cuda]

For small maps of each type, with weights in float32, and 1 and 16 states: the largest error of the output and of each
gradient, as a part of the largest value, and the seconds that a process's first scan takes for it (compiling included,
unless Triton's cache has the kernels). The exit status is 1 if an error is over the tolerance.
"""

import argparse
import sys
import time
import traceback

import torch

from mmvmamba.ops.backend import BACKENDS
from mmvmamba.ops.self_check import Use, errors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--backend', choices=BACKENDS, default='triton')
    parser.add_argument('--device', type=torch.device, default=torch.device('cuda'))
    options = parser.parse_args()
    backend = BACKENDS[options.backend]
    device = torch.empty(0, device=options.device).device  # with its index
    failed = False
    for map_type in (torch.float32, torch.bfloat16, torch.float16):
        for states in (1, 16):
            maps, weights = map_type, torch.float32
            use = Use(device, (maps, maps, weights, maps, maps, weights, weights, weights), states, True, True)
            begin = time.perf_counter()
            try:
                found = errors(backend.forward, backend.backward, use)
            except Exception:  # the other kinds may still work
                print(f'{use}:')
                traceback.print_exc()
                failed = True
                continue
            print(f'{use}: {time.perf_counter() - begin:.2f} s, {use.tolerance:.1e} is allowed')
            print('  ' + ', '.join(f'{name} {error:.1e}' for name, error in found.items()), flush=True)
            failed |= not all(error <= use.tolerance for error in found.values())
    sys.exit(failed)


if __name__ == '__main__':
    main()
