"""Kills a training at random moments, resumes it each time, and compares it with one that nobody touched.

    python -m tests.kill_and_resume configs/demo/mask-rcnn_vmamba-demo_fpn_coins.py --kills 10 --iterations 60

Whole process groups end by SIGKILL, which leaves no time for anything. Prints how many tensors of the weights and the
optimizer differ in the end, which must be 0, and the checkpoints that are left, of which `max_keep_ckpts=1` allows one.
With --workers N, N processes load the data, and a kill meets them, too. A config that counts epochs trains for as many
epochs as --epochs says, and saves after each.
"""

import argparse
import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from mmengine.config import Config

ROOT = Path(__file__).parents[1]
INTERVAL = 4  # iterations between checkpoints; one epoch otherwise


def start(config: str, work_dir: Path, length: dict[str, int], workers: int, *more: str) -> subprocess.Popen:
    options = [f'train_cfg.{name}={number}' for name, number in length.items()]
    options += [
        f'default_hooks.checkpoint.interval={INTERVAL if "max_iters" in length else 1}',
        'default_hooks.checkpoint.max_keep_ckpts=1',
        'train_cfg.val_interval=1000',
    ]
    if workers:
        options += [f'train_dataloader.num_workers={workers}', 'train_dataloader.persistent_workers=True']
    command = [sys.executable, ROOT / 'tools/train.py', config, '--work-dir', work_dir, '--cfg-options', *options]
    with work_dir.with_suffix('.log').open('a') as log:
        return subprocess.Popen([*command, *more], stdout=log, stderr=log, start_new_session=True)


def tensors(path: Path) -> dict[str, torch.Tensor]:
    content = torch.load(path, weights_only=False)
    state = content['optimizer']['state']
    return content['state_dict'] | {f'{i}.{name}': t for i, entry in state.items() for name, t in entry.items()}


def newest(folder: Path) -> int:
    """The iteration or epoch of the last checkpoint, 0 without one."""
    return max((int(path.stem.rpartition('_')[2]) for path in folder.glob('*_*.pth')), default=0)


def wait_for_a_moment(run: subprocess.Popen, folder: Path, chance: random.Random, seconds: float) -> None:
    """Up to `seconds` from the start of the process or, four times out of five, from the next checkpoint."""
    before = newest(folder)
    if chance.random() < 0.8:
        while run.poll() is None and newest(folder) == before:
            time.sleep(0.02)
    with contextlib.suppress(subprocess.TimeoutExpired):
        run.wait(chance.uniform(0, seconds))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('config')
    parser.add_argument('--kills', type=int, default=10)
    parser.add_argument('--iterations', type=int, default=100)
    parser.add_argument('--epochs', type=int, default=30, help='of a config that counts epochs')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--workers', type=int, default=0, help='processes that load the data (default: the training)')
    args = parser.parse_args()
    chance, folder = random.Random(args.seed), Path(tempfile.mkdtemp())
    whole, killed = folder / 'whole', folder / 'killed'
    by_epoch = 'max_epochs' in Config.fromfile(ROOT / args.config).train_cfg
    length = {'max_epochs': args.epochs} if by_epoch else {'max_iters': args.iterations}
    steps = args.epochs if by_epoch else args.iterations / INTERVAL
    started = time.monotonic()
    run = start(args.config, whole, length, args.workers)
    assert run.wait() == 0, whole.with_suffix('.log').read_text()[-2000:]
    between_checkpoints = (time.monotonic() - started) / steps
    last, kills = f'epoch_{args.epochs}.pth' if by_epoch else f'iter_{args.iterations}.pth', 0
    while not (killed / last).exists():
        run = start(args.config, killed, length, args.workers, '--resume')
        if kills < args.kills:
            wait_for_a_moment(run, killed, chance, between_checkpoints)
        else:
            run.wait()
        if run.poll() is None:
            os.killpg(run.pid, signal.SIGKILL)
            run.wait()
            kills += 1
            print(f'kill {kills}: left {sorted(path.name for path in killed.glob("*.pth*"))}', flush=True)
        assert run.returncode in (0, -signal.SIGKILL), killed.with_suffix('.log').read_text()[-2000:]
    expected, found = tensors(whole / last), tensors(killed / last)
    different = [name for name in expected if not torch.equal(expected[name], found[name])]
    left = sorted(path.name for path in killed.glob('*.pth*'))
    print(f'{kills} kills, {len(different)} of {len(expected)} tensors differ, left {left}')
    sys.exit(bool(different or expected.keys() != found.keys() or kills < args.kills or left != [last]))


if __name__ == '__main__':
    main()
