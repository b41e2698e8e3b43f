"""Many threads read checkpoints at once, while another one uses PyTorch's own reader.

    python -m tests.test_checkpoint.many_threads --loads 5000 --threads 8

Every read must return what was saved, or refuse a file that runs code. `torch.load(weights_only=True)` in the other
thread must return and refuse the same as without these threads.
"""

import argparse
import pickle
import sys
import tempfile
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from mmengine.logging import HistoryBuffer

from mmvmamba.checkpoint import CheckpointError, read_checkpoint

from .attacks import Calls


class Files:
    """Checkpoints of both formats, a refused one, and one that PyTorch's own reader takes."""

    def __init__(self, folder: Path):
        self.plain, self.refused = folder / 'plain.pth', folder / 'refused.pth'
        self.rich = [folder / 'zip.pth', folder / 'legacy.pth']
        self.weights = {f'layer{number}': torch.randn(50, 50) for number in range(20)}
        content = {'state_dict': self.weights, 'loss': HistoryBuffer([1.0, 3.0], [1, 1]), 'array': np.arange(3)}
        for path, zipped in zip(self.rich, (True, False)):
            torch.save(content, path, _use_new_zipfile_serialization=zipped)
        torch.save(self.weights, self.plain)
        torch.save({'state_dict': self.weights, 'code': Calls(print, 'the file ran code')}, self.refused)

    def same(self, weights: dict) -> bool:
        return all(torch.equal(weights[name], tensor) for name, tensor in self.weights.items())

    def read(self, number: int) -> str:
        """'right', or what is wrong with one read."""
        if number % 5 == 4:
            try:
                read_checkpoint(self.refused)
            except CheckpointError as error:
                return 'right' if 'was rejected' in str(error) else str(error)
            return 'code was accepted'
        content = read_checkpoint(self.rich[number % 2])
        right = (
            self.same(content['state_dict'])
            and content['loss'].mean() == 2
            and type(content['array']) is np.ndarray
            and content['array'].tolist() == [0, 1, 2]
        )
        return 'right' if right else 'other content'

    def load_with_torch(self) -> str:
        """The same for PyTorch's own reader, which takes the plain file and neither of the others."""
        if not self.same(torch.load(self.plain, weights_only=True)):
            return 'torch.load: other content'
        try:
            torch.load(self.rich[0], weights_only=True)
        except pickle.UnpicklingError:
            return 'torch.load: right'
        return 'torch.load took what it refuses alone'


def race(loads: int, threads: int) -> Counter:
    """How many reads had which result."""
    results, done, listed = Counter(), threading.Event(), torch.serialization.get_safe_globals()
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(threads + 1) as pool:
        files = Files(Path(folder))

        def load_with_torch() -> Counter:
            seen = Counter()
            while not done.is_set():
                seen[files.load_with_torch()] += 1
            return seen

        other = pool.submit(load_with_torch)
        try:
            results.update(pool.map(files.read, range(loads)))
        finally:
            done.set()
        results.update(other.result())
    if torch.serialization.get_safe_globals() != listed:
        results['the list of safe globals was changed'] += 1
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--loads', type=int, default=5000)
    parser.add_argument('--threads', type=int, default=8)
    args = parser.parse_args()
    results = race(args.loads, args.threads)
    print(dict(results))
    sys.exit(0 if set(results) <= {'right', 'torch.load: right'} else 'other results than those expected')


if __name__ == '__main__':
    main()
