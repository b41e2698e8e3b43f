"""Fuzz test: calls scans, models and models on images with wrong arguments drawn from a seed.

    python -m tests.bad_input --cases 2000 --seed 7

Every call must return a correct result or raise a one-sentence error of this package. Sizes are small enough to fit
into memory.
"""

import argparse
import logging
import sys
import time
import warnings
from collections import Counter

import torch
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from . import images, models, scans

SHARES = {scans: 2, models: 1, images: 1}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--cases', type=int, default=2000)
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args()
    warnings.simplefilter('ignore')
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    started, outcomes, faults, drawn = time.monotonic(), Counter(), [], set()

    def run(case):
        outcome, wrong = case.run()
        outcomes[case.kind, outcome] += 1
        drawn.add(case.drawn)
        if wrong:
            faults.append(f'{case.drawn}\n    {wrong}')

    for module, share in SHARES.items():
        draw_all(run, module.cases(), args.cases * share // sum(SHARES.values()), args.seed)
    for (kind, outcome), count in sorted(outcomes.items()):
        print(f'{kind:22}{outcome:9}{count:6}')
    print(
        f'{outcomes.total()} cases ({len(drawn)} different) in {time.monotonic() - started:.0f} s, {len(faults)} faults'
    )
    sys.exit('\n'.join(faults[:20]) or None)


def draw_all(run, cases: st.SearchStrategy, number: int, seed_value: int) -> None:
    options = dict(database=None, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    seed(seed_value)(settings(max_examples=number, **options)(given(cases)(run)))()


if __name__ == '__main__':
    main()
