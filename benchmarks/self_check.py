"""Compares the kernels of a backend with the chunked scan, as the self-check does, and prints the errors.

    python benchmarks/self_check.py [--backend triton] [--device cuda]

For small maps of each dtype with float32 weights, and for 1 and 16 states, the script prints the maximum error of the
output and each gradient relative to the largest value, and the time that the check adds to the first scan of a process
(including compilation, unless the kernels are in Triton's cache). The exit status is 1 if an error exceeds the
tolerance.
"""

import argparse
import sys
import time
import traceback

import torch

from mmvmamba.ops.scan.backends import SCAN
from mmvmamba.ops.scan.signature import ScanSignature
from mmvmamba.ops.self_check import errors, tolerance


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or '').partition('\n')[0])
    parser.add_argument('--backend', choices=SCAN.backends, default='triton')
    parser.add_argument('--device', type=torch.device, default=torch.device('cuda'))
    options = parser.parse_args()
    backend = SCAN.backends[options.backend]
    if backend.backward is None:
        sys.exit(f'{backend.name} has no backward pass of its own.')
    device = torch.empty(0, device=options.device).device  # includes the device index
    failed = False
    for map_type in (torch.float32, torch.bfloat16, torch.float16):
        for states in (1, 16):
            maps, weights = map_type, torch.float32
            use = ScanSignature(
                device, (maps, maps, weights, maps, maps, weights, weights, weights), states, True, True
            )
            begin = time.perf_counter()
            try:
                found = errors(backend.forward, backend.backward, use)
            except Exception:  # the remaining combinations may still work
                print(f'{use}:')
                traceback.print_exc()
                failed = True
                continue
            print(f'{use}: {time.perf_counter() - begin:.2f} s, tolerance {tolerance(use):.1e}')
            print('  ' + ', '.join(f'{name} {error:.1e}' for name, error in found.items()), flush=True)
            failed |= not all(error <= tolerance(use) for error in found.values())
    sys.exit(failed)


if __name__ == '__main__':
    main()
