"""The Slurm scripts: what they pass to srun, and, where Slurm is installed, jobs on a cluster of two CPU nodes."""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from mmvmamba.engine import distributed
from mmvmamba.engine.errors import LaunchError

from .test_check_gpu import program
from .test_tools import data, detection  # noqa: F401  (fixtures)

ROOT = Path(__file__).parents[1]


def srun_arguments(folder, name='train', cpus='64', **variables):
    """Runs a script with stand-ins for srun and sinfo; `cpus` is what sinfo prints."""
    program(folder / 'srun', 'printf "%s\\n" "$@"')
    program(folder / 'sinfo', f'printf "{cpus}\\n"')
    environment = {'PATH': f'{folder}:{os.environ["PATH"]}', **variables}
    command = ['bash', ROOT / f'tools/slurm_{name}.sh', 'partition', 'job', 'config.py', 'last']
    command += ['--cfg-options', 'a=b c']
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.splitlines()


@pytest.mark.parametrize('name', ['train', 'test'])
def test_srun_gets_gpus_and_the_arguments_of_the_tool(name, tmp_path):
    arguments = srun_arguments(tmp_path, name, GPUS='4', SRUN_ARGS='--time=1 --mem=2')
    wanted = {'--partition=partition', '--gres=gpu:4', '--ntasks=4', '--ntasks-per-node=4', '--time=1', '--mem=2'}
    assert wanted <= set(arguments)
    last = ['--work-dir', 'last'] if name == 'train' else ['last']
    expected = ['config.py', *last, '--launcher', 'slurm', '--cfg-options', 'a=b c']
    assert arguments[arguments.index(str(ROOT / f'tools/{name}.py')) + 1 :] == expected


def test_without_gpus_srun_gets_only_a_number_of_tasks(tmp_path):
    arguments = srun_arguments(tmp_path, GPUS='0', TASKS='3')
    assert '--ntasks=3' in arguments
    assert not [each for each in arguments if each.startswith(('--gres', '--ntasks-per-node'))]


@pytest.mark.parametrize(
    'cpus, variables, wanted',
    [
        ('64', {'GPUS': '8'}, 5),
        ('64\\n32+', {'GPUS': '8'}, 4),  # the smallest node of the partition
        ('2', {'GPUS': '1'}, 2),
        ('2', {'GPUS': '0', 'TASKS': '2'}, 1),
        ('2', {'GPUS': '0', 'TASKS': '4'}, 1),  # on two nodes
        ('', {'GPUS': '8'}, 5),  # unknown partition: srun names it
        ('2', {'GPUS': '1', 'CPUS_PER_TASK': '7'}, 7),
    ],
)
def test_processors_per_task_fit_the_node(cpus, variables, wanted, tmp_path):
    assert f'--cpus-per-task={wanted}' in srun_arguments(tmp_path, cpus=cpus, **variables)


VARIABLES = {'RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'MASTER_ADDR', 'MASTER_PORT'}


@pytest.mark.parametrize('port, wanted', [(None, '24567'), (29511, '29511')])
def test_variables_of_srun_become_those_of_pytorch(port, wanted, tmp_path, monkeypatch):
    """The default port differs from job to job."""
    program(tmp_path / 'scontrol', 'test "$*" = "show hostnames node[3-4]" && echo node3 && echo node4')
    of_srun = {'SLURM_PROCID': '5', 'SLURM_NTASKS': '8', 'SLURM_LOCALID': '1', 'SLURM_NODELIST': 'node[3-4]'}
    environment = {'PATH': f'{tmp_path}:{os.environ["PATH"]}', 'SLURM_JOB_ID': '1234567', **of_srun}
    monkeypatch.setattr(distributed.os, 'environ', environment)
    distributed._read_slurm_variables(port)
    assert [environment[name] for name in ('RANK', 'WORLD_SIZE', 'LOCAL_RANK')] == ['5', '8', '1']
    assert (environment['MASTER_ADDR'], environment['MASTER_PORT']) == ('node3', wanted)


def test_a_process_that_srun_has_not_started_gets_one_sentence(monkeypatch):
    monkeypatch.delenv('SLURM_PROCID', raising=False)
    monkeypatch.delenv('MMVMAMBA_LAUNCHER', raising=False)
    monkeypatch.setattr(distributed, '_end_with_parent', lambda: None)
    with pytest.raises(LaunchError, match=r'--launcher slurm needs srun: use tools/slurm_train\.sh'):
        distributed.init_process_group(Config(dict(launcher='slurm')))


# --- a real cluster ---------------------------------------------------------------------------------------------------

slurm_is_installed = all(map(shutil.which, ('slurmctld', 'slurmd', 'munged', 'srun'))) and os.geteuid() == 0
needs_slurm = pytest.mark.skipif(not slurm_is_installed, reason="needs Debian's slurm-wlm and munge, and root")
ON_CPUS = ['--gres=none', '--ntasks-per-node=1', '--cpus-per-task=1', '--time=10']


@pytest.fixture(scope='module')
def cluster(tmp_path_factory):
    """Starts the cluster, and returns the environment of its users."""
    folder = tmp_path_factory.mktemp('slurm')
    subprocess.run(['bash', ROOT / 'tests/slurm/start.sh', folder], check=True)
    # The names of the nodes are not in DNS.
    slurm = {'SLURM_CONF': str(folder / 'slurm.conf'), 'MASTER_ADDR': '127.0.0.1', 'PYTHON': sys.executable}
    yield {**os.environ, **slurm, 'OMP_NUM_THREADS': '1', 'CUDA_VISIBLE_DEVICES': '', 'PYTHONPATH': str(ROOT)}
    subprocess.run(['bash', ROOT / 'tests/slurm/stop.sh', folder], check=True)


@pytest.fixture
def checkout(tmp_path):
    """An empty folder with the tools of this checkout."""
    (tmp_path / 'tools').symlink_to(ROOT / 'tools')
    return tmp_path


def call(*command, cwd, env):
    done = subprocess.run(list(map(str, command)), cwd=cwd, env=env, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
@needs_slurm
def test_training_and_testing_on_a_cpu_partition(cluster, detection, checkout):  # noqa: F811
    """With neither GPUs nor CPUS_PER_TASK."""
    on_cpus = {**cluster, 'GPUS': '0', 'TASKS': '2'}
    output = call('bash', 'tools/slurm_train.sh', 'cpu', 'job', detection, 'run', cwd=checkout, env=on_cpus)
    assert re.search(r'device .*, 2 processes', output)
    output = call('bash', 'tools/slurm_test.sh', 'cpu', 'job', detection, 'run/iter_2.pth', cwd=checkout, env=on_cpus)
    assert 'coco/bbox_mAP' in output


@pytest.mark.slow
@needs_slurm
@pytest.mark.parametrize('nodes', [1, 2])
def test_batch_job_trains_on_one_and_two_nodes(nodes, cluster, detection, checkout):  # noqa: F811
    options = [f'--nodes={nodes}', f'--ntasks-per-node={3 - nodes}', '--output=log', '--wait']
    script = 'tools/slurm_examples/train.sbatch'
    call('sbatch', *ON_CPUS, *options, script, detection, 'run', cwd=checkout, env=cluster)
    assert re.search(r'device .*, 2 processes', (checkout / 'log').read_text())
    assert torch.load(checkout / 'run/iter_2.pth', weights_only=False)['message_hub']
    info = call('scontrol', 'show', 'job', cwd=checkout, env=cluster)
    assert re.findall(r'NodeList=(node\S+)', info)[-1] == {1: 'node1', 2: 'node[1-2]'}[nodes]


def wait_for(condition):
    deadline = time.monotonic() + 200
    while not condition():
        assert time.monotonic() < deadline, 'timeout'
        time.sleep(0.5)


@pytest.mark.slow
@needs_slurm
def test_batch_job_is_queued_again_at_its_time_limit_and_continues(cluster, detection, checkout):  # noqa: F811
    """The signal that Slurm sends before the limit is sent by scancel."""
    options = ['train_cfg.max_iters=100000', 'default_hooks.checkpoint.interval=2']
    options += ['default_hooks.checkpoint.max_keep_ckpts=2']
    script = 'tools/slurm_examples/train_requeue.sbatch'
    command = ['sbatch', '--parsable', *ON_CPUS, '--output=log', script, detection, 'run', '--cfg-options', *options]
    job = call(*command, cwd=checkout, env=cluster).strip()
    log, run = checkout / 'log', checkout / 'run'

    wait_for(lambda: (run / 'last_checkpoint').exists())
    call('scancel', '--batch', '--signal=USR1', job, cwd=checkout, env=cluster)
    wait_for(lambda: f'time limit: job {job} is queued again' in log.read_text())
    wait_for(lambda: 'resumed' in log.read_text().partition('is queued again')[2])
    call('scancel', job, cwd=checkout, env=cluster)
    before, _, after = log.read_text().partition('is queued again')
    resumed = int(re.search(r'resumed.*iter: (\d+)', after)[1])
    assert resumed >= 2 and f'Saving checkpoint at {resumed} iterations' in before
