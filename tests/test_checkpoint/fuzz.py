"""Damaged and crafted checkpoint files, made again from a seed, read and loaded.

    python -m tests.test_checkpoint.fuzz --cases 2000 --seed 0

Each file must result in the weights that were saved, in other weights where the file itself asks for them (a pickle
that was rewritten with its checksum), or in one sentence of ours and an unchanged model. No file may run code or exceed
the limits on memory and time. `--minutes 3` stops after that time, for CI; `--measure` prints the cost of each file.
"""

import argparse
import logging
import os
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from mmengine.logging import HistoryBuffer

from mmvmamba.checkpoint import CheckpointError, load_checked, read_checkpoint, unwrap_state_dict

from .cost import MOST_SECONDS, Cost, most_memory
from .generated_files import Generator


class Result(NamedTuple):
    kind: str
    outcome: str  # refused, read but not loaded, loaded, or foreign: an exception that is not ours
    size: int
    memory: int
    seconds: float
    wrong: str  # '' if all is right


class Fuzzer:
    def __init__(self, folder: Path, seed: int):
        self.generator, self.folder = Generator(folder, seed), folder
        self.methods = dict(HistoryBuffer._statistics_methods)
        self.globals = torch.serialization.get_safe_globals()

    def run(self, number: int) -> Result:
        make = Generator.kinds[number % len(Generator.kinds)]
        content, may_differ = make(self.generator)
        is_safetensors = make is Generator.safetensors_header or content[:8] == self.generator.tensors[:8]
        path = self.folder / ('case.safetensors' if is_safetensors else 'case.pth')
        path.write_bytes(content)
        model = self.generator.model
        for tensor in model.state_dict().values():
            tensor.fill_(0.5)
        wrong = ''
        signal.setitimer(signal.ITIMER_PROF, MOST_SECONDS + 1)
        with Cost() as cost:
            try:
                outcome = 'refused'
                content_read = read_checkpoint(path)
                outcome = 'read'
                load_checked(model, unwrap_state_dict(content_read, path), path)
                outcome = 'loaded'
            except CheckpointError as error:
                sentence = str(error)
                if not sentence.isprintable() or len(sentence) > 2000 or path.name not in sentence:
                    wrong = f'the sentence is {sentence!r}'
            except Exception:  # what a user would meet as a traceback
                outcome, wrong = 'foreign', traceback.format_exc()
        signal.setitimer(signal.ITIMER_PROF, 0)
        wrong = wrong or self.damage(outcome, may_differ)
        if cost.memory > most_memory(len(content)) or cost.seconds > MOST_SECONDS:
            wrong = wrong or f'{len(content)} bytes took {cost.memory / 1e6:.0f} MB and {cost.seconds:.1f} s'
        return Result(make.__name__, outcome, len(content), cost.memory, cost.seconds, wrong)

    def damage(self, outcome: str, may_differ: bool) -> str:
        """What a file has done that it must not do."""
        if self.generator.marker.exists():
            return 'the file ran code'
        if HistoryBuffer._statistics_methods != self.methods or repr(np.ones(1)) != 'array([1.])':
            return 'a class was changed'
        if torch.serialization.get_safe_globals() != self.globals:
            return "PyTorch's list of safe globals was changed"
        after = self.generator.model.state_dict()
        if outcome != 'loaded':
            return '' if all((tensor == 0.5).all() for tensor in after.values()) else 'half of it was loaded'
        same = all(torch.equal(tensor, self.generator.weights[name]) for name, tensor in after.items())
        return '' if same or may_differ else 'damaged weights were loaded'


def stop(*_):
    raise TimeoutError(f'more than {MOST_SECONDS} s')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--cases', type=int, default=2000)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--minutes', type=float, help='stop after this time')
    parser.add_argument('--measure', action='store_true', help='print the size, memory and CPU time of each file')
    args = parser.parse_args()
    warnings.simplefilter('ignore')
    logging.disable(logging.WARNING)
    signal.signal(signal.SIGPROF, stop)
    started, results = time.monotonic(), []
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        fuzzer = Fuzzer(Path(folder), args.seed)
        for number in range(args.cases):
            if args.minutes and time.monotonic() - started > 60 * args.minutes:
                break
            result = fuzzer.run(number)
            results.append(result)
            if args.measure:
                cost = f'{result.memory / 1e6:8.1f} MB {result.seconds:7.3f} s'
                print(f'{number:6} {result.kind:26}{result.outcome:9}{result.size:9} bytes {cost}')
    for (kind, outcome), count in sorted(Counter((result.kind, result.outcome) for result in results).items()):
        print(f'{kind:26}{outcome:9}{count:6}')
    most = max(results, key=lambda result: result.memory)
    slowest = max(results, key=lambda result: result.seconds)
    print(f'most memory: {most.memory / 1e6:.0f} MB for a file of {most.size / 1e6:.3f} MB ({most.kind})')
    print(f'most time: {slowest.seconds:.1f} CPU s for a file of {slowest.size / 1e6:.3f} MB ({slowest.kind})')
    faults = [f'case {n} ({result.kind}): {result.wrong}' for n, result in enumerate(results) if result.wrong]
    print(f'{len(results)} files in {time.monotonic() - started:.0f} s, {len(faults)} faults')
    sys.exit('\n'.join(faults[:20]) or None)


if __name__ == '__main__':
    main()
