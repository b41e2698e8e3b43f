"""Runs a backbone many times and fails if the memory of the process grows after the warm-up (Linux only).

    python benchmarks/steady_memory.py [--family vmamba vim] [--inferences 1000] [--steps 300]

Inference uses images of 16 sizes; training uses a single size and an optimizer. The first third of each is the warm-up.
The medians of the second and the last third may differ by 2 %. The script measures resident memory without mapped files
(RssAnon), because a leak would be small compared with their 600 MiB. The number of sizes is fixed, because for each new
size PyTorch caches data prepared by oneDNN until its caches are full. This is also the case for ResNet-18.
"""

import argparse
import gc
import statistics
import sys
from collections.abc import Callable

import measure
import torch
from torch import nn

from mmvmamba import Vim, VMamba

FAMILIES = {
    'vmamba': lambda: VMamba(dict(dims=32, depths=(1, 1, 1, 1))),
    'vim': lambda: Vim(dict(embed_dims=96, depth=4)),
}
ALLOWED = 0.02


def infer(model: nn.Module) -> Callable[[int], None]:
    sizes = torch.randint(33, 257, (16, 2), generator=torch.Generator().manual_seed(0))
    sizes[0] = 256  # the largest comes first

    def run(i: int) -> None:
        with torch.no_grad():
            model(torch.randn(1, 3, *sizes[i % len(sizes)].tolist()))

    model.eval()
    return run


def train(model: nn.Module) -> Callable[[int], None]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def run(i: int) -> None:
        optimizer.zero_grad()
        torch.stack([out.square().mean() for out in model(torch.randn(2, 3, 96, 96))]).sum().backward()
        optimizer.step()

    model.train()
    return run


def growth(resident: list[int]) -> float:
    """Returns the relative growth of resident memory from the second to the last third."""
    third = len(resident) // 3
    return statistics.median(resident[-third:]) / statistics.median(resident[third:-third]) - 1


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or '').partition('\n')[0])
    parser.add_argument('--family', nargs='+', choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument('--inferences', type=int, default=1000)
    parser.add_argument('--steps', type=int, default=300)
    options = parser.parse_args()
    grown = []
    for family in options.family:
        model = FAMILIES[family]()
        for work, times in ((infer, options.inferences), (train, options.steps)):
            run, resident = work(model), []
            for i in range(times):
                run(i)
                resident.append(measure.resident('RssAnon'))
            name = f'{family}, {times} times {work.__name__}'
            first, last = (size / 2**20 for size in (resident[0], resident[-1]))
            print(f'{name:28}{first:.1f} MiB at first, {last:.1f} at last: {growth(resident):+.2%}', flush=True)
            if growth(resident) > ALLOWED:
                grown.append(name)
        del model, run
        gc.collect()
    sys.exit(f'Memory grows: {"; ".join(grown)}' if grown else 0)


if __name__ == '__main__':
    main()
