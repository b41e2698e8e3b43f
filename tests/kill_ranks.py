"""Kills ranks and launchers of distributed training jobs, on one and on two nodes, and checks what remains.

    python -m tests.kill_ranks configs/demo/mask-rcnn_vmamba-demo_fpn_coins.py

After SIGKILL of any process, every process of the job, including data loader workers, must end within a minute, and
every remaining launcher must report the failure and exit with an error. A second launcher on the same machine acts as
the second node.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

ROOT = Path(__file__).parents[1]
LIMIT = 60  # seconds


class Job:
    """A training job that runs until it is killed, with one launcher per node.

    Args:
        config: config file with an IterBasedTrainLoop.
        folder: directory for the logs and the work dir.
        nodes, ranks: number of launchers, and number of ranks per launcher.
        more: config overrides, KEY=VALUE.
    """

    def __init__(self, config: Path | str, folder: Path, nodes: int, ranks: int, *more: str):
        self.mark = uuid.uuid4().hex  # child processes inherit this environment variable
        with socket.socket() as free:
            free.bind(('127.0.0.1', 0))
            port = str(free.getsockname()[1])
        environment = {**os.environ, 'PYTHON': sys.executable, 'PORT': port, 'JOB': self.mark, 'NNODES': str(nodes)}
        environment |= {'CUDA_VISIBLE_DEVICES': '', 'OMP_NUM_THREADS': '1', 'MASTER_ADDR': '127.0.0.1'}
        options = ['train_cfg.max_iters=1000000', 'train_cfg.val_interval=1000000', 'default_hooks.logger.interval=1']
        command = ['bash', ROOT / 'tools/dist_train.sh', config, str(ranks), '--work-dir', folder / 'run']
        self.logs = [folder / f'node_{node}.log' for node in range(nodes)]
        self.launchers = []
        for node, log in enumerate(self.logs):
            with log.open('w') as out:
                self.launchers.append(
                    subprocess.Popen(
                        [*command, '--cfg-options', *options, *more],
                        env=environment | {'NODE_RANK': str(node)},
                        stdout=out,
                        stderr=out,
                    )
                )

    def wait_for_iterations(self) -> None:
        until = time.monotonic() + 5 * LIMIT
        while 'Iter(train)' not in self.logs[0].read_text():
            assert time.monotonic() < until and all(launcher.poll() is None for launcher in self.launchers), self.said()
            time.sleep(0.2)

    def processes(self) -> set[int]:
        """Returns the process ids of all running processes of the job."""
        found = set()
        for folder in Path('/proc').glob('[0-9]*'):
            try:
                is_ours = f'JOB={self.mark}'.encode() in (folder / 'environ').read_bytes().split(b'\0')
                has_ended = (folder / 'stat').read_text().rpartition(')')[2].split()[0] in 'ZX'
            except (OSError, IndexError):
                continue
            if is_ours and not has_ended:
                found.add(int(folder.name))
        return found

    def ranks(self, node: int) -> list[int]:
        """Returns the process ids of the ranks that a launcher has started."""
        pid = self.launchers[node].pid
        if b'torchrun.py' not in Path(f'/proc/{pid}/cmdline').read_bytes():
            return []  # the process is still the shell
        return sorted(map(int, Path(f'/proc/{pid}/task/{pid}/children').read_text().split()))

    def kill(self, pid: int) -> float:
        """Kills one process and returns the seconds until all processes of the job have ended.

        Raises:
            AssertionError: some processes are still running after a minute; they are then killed too.
        """
        started = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        while left := self.processes():
            if time.monotonic() - started > LIMIT:
                self.end()
                raise AssertionError(f'{len(left)} processes are left after {LIMIT} s: {self.said()}')
            for launcher in self.launchers:
                launcher.poll()
            time.sleep(0.1)
        return time.monotonic() - started

    def end(self) -> None:
        for pid in self.processes():
            os.kill(pid, signal.SIGKILL)
        for launcher in self.launchers:
            launcher.wait()

    def said(self) -> str:
        return '\n'.join(log.read_text()[-3000:] for log in self.logs)


def kill_rank(job: Job) -> float:
    """Kills the last rank of the last node; returns the seconds until all processes have ended."""
    job.wait_for_iterations()
    seconds = job.kill(job.ranks(-1)[-1])
    assert all(launcher.wait() not in (0, -signal.SIGKILL) for launcher in job.launchers), job.said()
    assert 'Signal 9 (SIGKILL) received' in job.logs[-1].read_text(), job.said()
    assert all('ChildFailedError' in log.read_text() for log in job.logs), job.said()
    return seconds


def kill_launcher(job: Job) -> float:
    """Kills the launcher of the last node; returns the seconds until all processes have ended."""
    job.wait_for_iterations()
    seconds = job.kill(job.launchers[-1].pid)
    assert all(launcher.wait() not in (0, -signal.SIGKILL) for launcher in job.launchers[:-1]), job.said()
    return seconds


def kill_early(job: Job) -> float:
    """Kills the launcher of the last node while its ranks are still importing.

    The other nodes are not notified and wait until `env_cfg.dist_cfg.timeout` expires. Returns the seconds until all
    processes have ended.
    """
    while not job.ranks(-1):
        time.sleep(0.05)
    return job.kill(job.launchers[-1].pid)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('config')
    args = parser.parse_args()
    for nodes, ranks in ((1, 2), (2, 1), (2, 2)):
        for kill in (kill_rank, kill_launcher, kill_early):
            more = ['env_cfg.dist_cfg.timeout=30'] if nodes > 1 and kill is kill_early else []
            job = Job(args.config, Path(tempfile.mkdtemp()), nodes, ranks, *more)
            try:
                print(f'{nodes} x {ranks}, {kill.__name__}: all gone after {kill(job):.1f} s', flush=True)
            finally:
                job.end()


if __name__ == '__main__':
    main()
