#!/usr/bin/env bash
# Trains with one process per GPU. On a machine without GPUs, GPUS is the number of CPU processes:
#     bash tools/dist_train.sh CONFIG GPUS [arguments of train.py]
# For several machines, run the command on each of them with NNODES, NODE_RANK, MASTER_ADDR and PORT set. PYTHON sets
# the interpreter (default: the active environment, else .venv of this checkout).
set -euo pipefail

usage='usage: dist_train.sh CONFIG GPUS [arguments of train.py]'
config=${1:?$usage}
gpus=${2:?$usage}
tools=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=python
[[ -z ${VIRTUAL_ENV:-}${CONDA_PREFIX:-} && -x $tools/../.venv/bin/python ]] && python=$tools/../.venv/bin/python
python=${PYTHON:-$python}
export PYTHONPATH="$tools/..${PYTHONPATH:+:$PYTHONPATH}"

export MMVMAMBA_LAUNCHER=$$ # a rank detects that its launcher has died if its parent process differs
exec "$python" -m torch.distributed.run \
    --nnodes="${NNODES:-1}" \
    --node_rank="${NODE_RANK:-0}" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" \
    --master_port="${PORT:-29500}" \
    --nproc_per_node="$gpus" \
    "$tools/train.py" "$config" --launcher pytorch "${@:3}"
