"""Compares the speed of the depthwise convolution with SiLU with that of PyTorch, on the shapes of VMamba and Vim.

    python benchmarks/conv.py [--device cuda] [--dtype bfloat16] [--batch 128] [--cases 56x56] [--json FILE]

Measures the forward pass alone, and forward + backward with gradients for every input. The PyTorch version is a
channels-last convolution followed by SiLU. On CUDA it is also measured without cuDNN, whose depthwise convolutions can
be slow. "at best" compares the fastest rounds, which are less affected by other load on the machine. Errors are
relative L2 errors against float64. benchmarks/README.md describes the method.
"""

from collections.abc import Callable
from functools import partial

import measure
import torch
import torch.nn.functional as F
from torch import Tensor

from mmvmamba.ops import conv_silu_1d, conv_silu_2d

OURS, PEER, WITHOUT_CUDNN = 'mmvmamba', 'PyTorch', 'PyTorch, cuDNN off'
REVERSE = (False, True)

# (H, W, E) for the 3x3 convolution, (L, E) for the two causal convolutions.
CASES = {
    'VMamba-T stage 1 at 224: 56x56x96': (56, 56, 96),
    'VMamba-T stage 2 at 224: 28x28x192': (28, 28, 192),
    'VMamba-T stage 3 at 224: 14x14x384': (14, 14, 384),
    'VMamba-T stage 4 at 224: 7x7x768': (7, 7, 768),
    'VMamba-T stage 1 at 512: 128x128x96': (128, 128, 96),
    'Vim-Ti at 224, both ways: 1x197x384': (197, 384),
    'Vim-Ti at 1024, both ways: 1x4096x384': (4096, 384),
}


def make_inputs(seed: int, device: str, dtype: torch.dtype, batch: int, size: tuple[int, ...]) -> list[Tensor]:
    """Returns x, weight and bias."""
    generator = torch.Generator(device).manual_seed(seed & 0xFFFFFFFF)
    channels = size[-1]
    weight, bias = ((channels, 1, 3, 3), (channels,)) if len(size) == 3 else ((2, channels, 4), (2, channels))
    return [
        torch.randn(shape, generator=generator, device=device).mul(scale).to(dtype)
        for shape, scale in (((batch, *size), 1), (weight, 0.3), (bias, 0.1))
    ]


def ours(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return conv_silu_2d(x, weight, bias) if x.dim() == 4 else conv_silu_1d(x, weight, bias, REVERSE)


def pytorchs(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    if x.dim() == 4:
        y = F.conv2d(x.permute(0, 3, 1, 2), weight, bias, padding=1, groups=len(weight))
        return F.silu(y).permute(0, 2, 3, 1)
    others, y = weight.shape[-1] - 1, []
    x = x.mT.unsqueeze(2)  # a channels-last map of height 1, because PyTorch's 1-D convolution would copy x
    for w, b, ahead in zip(weight, bias, REVERSE):
        w = (w.flip(-1) if ahead else w)[:, None, None]
        wide = F.conv2d(x, w, b, padding=(0, others), groups=len(w))
        y.append(F.silu(wide.narrow(3, others if ahead else 0, x.shape[3])))
    return torch.stack([t.squeeze(2).mT for t in y], 1)


def without_cudnn(*inputs: Tensor) -> Tensor:
    with torch.backends.cudnn.flags(enabled=False):
        return pytorchs(*inputs)


def forward(function, inputs: list[Tensor]) -> None:
    with torch.no_grad():
        function(*inputs)


def forward_backward(function, inputs: list[Tensor]) -> None:
    y = function(*(t.detach().requires_grad_() for t in inputs))
    y.backward(y.detach())


def error(function, inputs: list[Tensor]) -> float:
    wanted = pytorchs(*(t.double() for t in inputs))
    return ((function(*inputs) - wanted).norm() / wanted.norm()).item()


def measure_case(name: str, size: tuple[int, ...], functions: dict, options) -> list[dict]:
    make = partial(
        make_inputs, device=options.device, dtype=measure.DTYPES[options.dtype], batch=options.batch, size=size
    )
    rows: dict[str, dict] = {}
    for key, of in functions.items():
        rows[key] = dict(case=name, implementation=key, error=error(of, make(0)))
    for mode, step in (('forward', forward), ('forward_backward', forward_backward)):
        runs = {key: partial(step, of) for key, of in functions.items()}
        times = measure.interleave(runs, make, options.device, options.rounds)
        for key, row in rows.items():
            row[mode] = dict(
                seconds=times[key],
                times_faster_than_pytorch=measure.ratios(times[PEER], times[key]),
                at_best=min(times[PEER]) / min(times[key]),
            )
    return list(rows.values())


def show(name: str, rows: list[dict], batch: int) -> None:
    header = ['', 'error', 'forward ms', 'x PyTorch', 'at best', 'forward + backward ms', 'x PyTorch', 'at best']
    cells = []
    for row in rows:
        line = [row['implementation'], f'{row["error"]:.1e}']
        for mode in ('forward', 'forward_backward'):
            line += [measure.milliseconds(row[mode]['seconds'])]
            line += [measure.spread(row[mode]['times_faster_than_pytorch']), f'{row[mode]["at_best"]:.2f}']
        cells.append(line)
    measure.show(f'{name}, batch {batch}', header, cells)


def main() -> None:
    parser = measure.parser(__doc__)
    parser.add_argument('--cases', nargs='*', help='run only the cases whose title contains one of these')
    options = parser.parse_args()
    machine = measure.start(options)
    functions: dict[str, Callable[..., Tensor]] = {OURS: ours, PEER: pytorchs}
    if options.device == 'cuda':
        functions[WITHOUT_CUDNN] = without_cudnn
    results = []
    for name, size in CASES.items():
        if options.cases and not any(part in name for part in options.cases):
            continue
        rows = measure_case(name, size, functions, options)
        show(name, rows, options.batch)
        results += rows
    measure.write_json(options.json, machine, options, results)


if __name__ == '__main__':
    main()
