#!/usr/bin/env bash
# Tests on a Slurm cluster:
#     GPUS=8 GPUS_PER_NODE=8 bash tools/slurm_test.sh PARTITION JOB_NAME CONFIG CHECKPOINT [arguments of test.py]
# CPUS_PER_TASK and SRUN_ARGS (further options of srun) can be set, too. PYTHON sets the interpreter (default: the
# active environment, else .venv of this checkout).
set -euo pipefail

usage='usage: slurm_test.sh PARTITION JOB_NAME CONFIG CHECKPOINT [arguments of test.py]'
partition=${1:?$usage}
job_name=${2:?$usage}
config=${3:?$usage}
checkpoint=${4:?$usage}
gpus=${GPUS:-8}
gpus_per_node=${GPUS_PER_NODE:-$((gpus < 8 ? gpus : 8))}
tools=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=python
[[ -z ${VIRTUAL_ENV:-}${CONDA_PREFIX:-} && -x $tools/../.venv/bin/python ]] && python=$tools/../.venv/bin/python
python=${PYTHON:-$python}
export PYTHONPATH="$tools/..${PYTHONPATH:+:$PYTHONPATH}"

# SRUN_ARGS is split into words on purpose.
# shellcheck disable=SC2086
exec srun \
    --partition="$partition" \
    --job-name="$job_name" \
    --gres="gpu:$gpus_per_node" \
    --ntasks="$gpus" \
    --ntasks-per-node="$gpus_per_node" \
    --cpus-per-task="${CPUS_PER_TASK:-5}" \
    --kill-on-bad-exit=1 \
    ${SRUN_ARGS:-} \
    "$python" -u "$tools/test.py" "$config" "$checkpoint" --launcher slurm "${@:5}"
