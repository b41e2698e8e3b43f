"""Measures the error of every available scan against the float64 reference, for the output and all gradients.

    python benchmarks/accuracy.py [--device cuda] [--dtype float16] [--json FILE]

Prints relative L2 errors, together with those of the sequential recurrence in float32 on the same inputs. The exit
status is 1 if an error of a backend exceeds three times that of the recurrence plus the machine epsilon of the input
dtype.
"""

import sys

import measure
import scan
import torch

from mmvmamba.ops import CROSS, selective_scan_2d, use_backend

OURS = ('chunked', 'native', 'triton')  # peers are shown, but not checked
CASES = {
    '28x28x96, N = 1': dict(size=(28, 28), channels=96),
    '31x33x40, N = 1, rank 6': dict(size=(31, 33), channels=40, rank=6),
    '28x20x96, N = 16': dict(size=(28, 20), channels=96, states=16),
    '2 maps of 1x700x192, N = 16, rank 12': dict(
        size=(1, 700), channels=192, states=16, rank=12, traversals=('row', 'row_reversed'), shared=False
    ),
    '1x2500x16, N = 2': dict(size=(1, 2500), channels=16, states=2),
}


def results_of(function, backend: str, inputs: dict, traversals: tuple[str, ...], dtype: torch.dtype | None) -> dict:
    """Returns the output (in float32 or wider) and the gradients, by name."""
    leaves = {
        name: None if t is None else t.detach().to(dtype or t.dtype).requires_grad_() for name, t in inputs.items()
    }
    options = dict(out_dtype=dtype or torch.float32) if function is selective_scan_2d else {}
    with use_backend(backend):
        y = function(**leaves, traversals=traversals, **options)
    weight = torch.linspace(0, 20, y.numel(), dtype=torch.float64, device=y.device).cos().view(y.shape)
    y.backward(weight.to(y.dtype))
    return dict(y=y.detach(), **{name: t.grad for name, t in leaves.items() if t is not None})


def error(result: torch.Tensor, exact: torch.Tensor) -> float:
    return ((result.double() - exact).norm() / exact.norm()).item()


def main() -> None:
    options = measure.parser(__doc__).parse_args()
    machine = measure.start(options)
    functions = scan.implementations(options.device)
    dtype = measure.DTYPES[options.dtype]
    results, failed = [], []
    for name, case in CASES.items():
        traversals = case.get('traversals', CROSS)
        inputs = scan.make_inputs(0, options.device, dtype, options.batch, **case)
        exact = results_of(selective_scan_2d, 'reference', inputs, traversals, torch.float64)
        found = {'sequential float32': results_of(selective_scan_2d, 'reference', inputs, traversals, torch.float32)}
        found |= {key: results_of(*chosen, inputs, traversals, None) for key, chosen in functions.items()}
        errors = {key: {n: error(t, exact[n]) for n, t in tensors.items()} for key, tensors in found.items()}
        allowed = {n: 3 * e + torch.finfo(dtype).eps for n, e in errors['sequential float32'].items()}
        for key, of in errors.items():
            results.append(dict(case=name, implementation=key, errors=of, allowed=allowed))
            failed += [f'{key}, {name}: {n}' for n, e in of.items() if key in OURS and not e <= allowed[n]]
        header = ['', *exact]
        measure.show(name, header, [[key, *(f'{of[n]:.1e}' for n in exact)] for key, of in errors.items()])
    measure.write_json(options.json, machine, options, results)
    if failed:
        sys.exit('Errors over the tolerance: ' + '; '.join(failed) + '.')
    print('\nAll errors are within three times the error of the sequential float32 recurrence plus one rounding.')


if __name__ == '__main__':
    main()
